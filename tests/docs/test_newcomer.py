"""Approximations that nothing here has seen, written from the documents alone.

Each is fitted on a small task, compared with a dense matrix that numpy makes from the weights by
hand, and explained with the structure one would expect.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.compiler.explain.derivation import structure_name
from curvlang.language import check_text
from curvlang.testing import assert_as_written, assert_inverse_inverts, check_spec
from tests.small import layer_block, network
from tests.small import task as make_task

EXACT = 1e-9
"""Relative difference in float64: sums of a few hundred products."""

SPEC = """
# The second term gives back what each output unit's own inputs have more of.
transform two_terms {
  "A Kronecker product of averages, and one that weighs the inputs by the curvature they meet."
  needs a[n,t,i], g[n,r,t,o]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
  D[o] = mean[n] sum[r,t] g[n,r,t,o]^2
  B[i,i'] = mean[n] sum[r,t,o] g[n,r,t,o]^2 * a[n,t,i] * a[n,t,i']
  M[i,i'] = B[i,i'] / max(trace(G), 1e-30) - A[i,i']
  yield C[o,i,o',i'] = G[o,o'] * A[i,i'] + identity[o,o'] * D[o] * M[i,i']
}

# One pair of factors for each column; with cross-entropy a column belongs to a class.
transform per_column {
  "A Kronecker product for every column of the loss curvature, each with its share of the trace."
  needs a[n,t,i], g[n,r,t,o]
  G[r,o,o'] = mean[n] sum[t] g[n,r,t,o] * g[n,r,t,o']
  A[r,i,i'] = mean[n] sum[t,o] g[n,r,t,o]^2 * a[n,t,i] * a[n,t,i']
  W[r] = mean[n] sum[t,o] g[n,r,t,o]^2
  yield C[o,i,o',i'] = sum[r] G[r,o,o'] * A[r,i,i'] / max(W[r], 1e-30)
}

# Output factors for each column, one input factor: the sum over columns goes into the factor.
transform shared_inputs {
  "The output factors of the columns, each counted by its own trace, over one input factor."
  needs a[n,t,i], g[n,r,t,o]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  G[r,o,o'] = mean[n] sum[t] g[n,r,t,o] * g[n,r,t,o']
  W[r] = mean[n] sum[t,o] g[n,r,t,o]^2
  F[o,o'] = sum[r] W[r] * G[r,o,o'] / max(norm(W), 1e-30)
  yield C[o,i,o',i'] = F[o,o'] * A[i,i']
}

transform leading_and_diagonal(rank: int = 3) {
  "The leading eigenpairs of a block and the diagonal of what they leave."
  needs C[o,i,o',i'], a[n,t,i], g[n,r,t,o]
  space k = min(rank, size[o] * size[i])
  V[o,i,k], s[k] = eigh(C[o,i | o',i'])
  D[o,i] = mean[n] sum[r] (sum[t] g[n,r,t,o] * a[n,t,i])^2
  E[o,i] = D[o,i] - sum[k] s[k] * V[o,i,k]^2
  yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * E[o,i] + sum[k] V[o,i,k] * s[k] * V[o',i',k]
}

curvature two    = block_ggn |> two_terms
curvature column = block_ggn |> per_column
curvature shared = block_ggn |> shared_inputs
curvature mixed  = block_ggn |> leading_and_diagonal(rank = 3)

law two equals block_ggn when examples == 1 and positions == 1 and columns are empirical
law trace(two) equals trace(block_ggn) when positions == 1
law two differs_from block_ggn when examples > 1
law column equals block_ggn when examples == 1 and positions == 1
law trace(column) equals trace(block_ggn) when positions == 1
law column differs_from kfac when examples > 1
law diagonal(mixed) equals diagonal(block_ggn)
law mixed differs_from diagonal when examples > 1
"""
STRUCTURES = {
    "two": "Kronecker + Kronecker",
    "column": "Dense",
    "shared": "Kronecker",
    "mixed": "Diagonal + LowRank",
}


@cache
def spec():
    return cv.loads(SPEC)


@cache
def task():
    return make_task(network([3, 4, 3]), "cross_entropy", n=9)


def kron(G, A):
    return np.einsum("oq,ij->oiqj", G, A).reshape(len(G) * len(A), -1)


def layers():
    """Inputs [N, I] and columns [N, R, O] of both layers, by hand: softmax, tanh, biases last."""
    first, _, second = task().model
    X = task().train[0].numpy()
    W1, b1, W2, b2 = (
        p.detach().numpy() for p in (first.weight, first.bias, second.weight, second.bias)
    )
    h = np.tanh(X @ W1.T + b1)
    f = h @ W2.T + b2
    p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    # S[n,c,r] = √p_r (δ_cr − p_c), so that S Sᵀ = diag(p) − p pᵀ.
    S = np.sqrt(p)[:, None, :] * (np.eye(p.shape[1]) - p[:, :, None])
    last = S.transpose(0, 2, 1)
    ones = np.ones((len(X), 1))
    yield "0", np.hstack([X, ones]), (last @ W2) * (1 - h**2)[:, None, :]
    yield "2", np.hstack([h, ones]), last


def block(a, g):
    """The layer's Gauss–Newton block, entry by entry from per-example gradients."""
    M = np.einsum("nro,ni->nroi", g, a).reshape(len(a), g.shape[1], -1)
    return np.einsum("nrx,nry->xy", M, M) / len(a)


def two_by_hand(a, g):
    N, w = len(a), (g**2).sum((1, 2))
    A, G = a.T @ a / N, np.einsum("nro,nrq->oq", g, g) / N
    M = (a * w[:, None]).T @ a / N / np.trace(G) - A
    return kron(G, A) + kron(np.diag(np.diag(G)), M)


def column_by_hand(a, g):
    total = 0
    for r in range(g.shape[1]):
        own = g[:, r]
        w = (own**2).sum(1)
        total = total + kron(own.T @ own, (a * w[:, None]).T @ a) / w.sum() / len(a)
    return total


def shared_by_hand(a, g):
    N = len(a)
    traces = (g**2).sum((0, 2)) / N
    F = sum(traces[r] * g[:, r].T @ g[:, r] / N for r in range(g.shape[1]))
    return kron(F / np.sqrt((traces**2).sum()), a.T @ a / N)


def mixed_by_hand(a, g):
    whole = block(a, g)
    values, vectors = np.linalg.eigh(whole)
    low = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T
    return low + np.diag(np.diag(whole - low))


BY_HAND = {
    "two": two_by_hand,
    "column": column_by_hand,
    "shared": shared_by_hand,
    "mixed": mixed_by_hand,
}


def test_the_spec_has_no_mistake():
    assert check_text(SPEC) == []


@pytest.mark.parametrize("name", BY_HAND)
def test_each_equals_numpy(name):
    op = cv.fit(spec(), task(), curvature=name)
    dense = op.dense()
    for layer, a, g in layers():
        expected = BY_HAND[name](a, g)
        found = layer_block(dense, op, layer).numpy()
        assert np.linalg.norm(found - expected) <= EXACT * np.linalg.norm(expected)
        assert np.linalg.norm(found - block(a, g)) > 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", BY_HAND)
def test_each_is_explained_with_its_structure(name):
    plan = cv.explain(spec(), task(), curvature=name)
    assert structure_name(plan.stages()[-1].shape) == STRUCTURES[name]
    assert plan.passes == 1


@pytest.mark.parametrize("name", BY_HAND)
def test_each_is_inverted_and_scores(name):
    op = cv.fit(spec(), task(), curvature=name)
    assert_inverse_inverts(op)
    assert_as_written(spec(), task(), curvature=name)
    scores = cv.influence(op, task(), damping=0.1)
    dense = op.dense() + 0.1 * torch.eye(op.shape[0], dtype=torch.float64)
    gradients = [
        torch.autograd.functional.jacobian(lambda *w, part=part: losses(w, part), weights())
        for part in (task().query, task().train)
    ]
    q, n = (torch.cat([x.flatten(1) for x in parts], 1) for parts in gradients)
    assert torch.allclose(scores, q @ torch.linalg.solve(dense, n.T), rtol=1e-8, atol=1e-10)


def weights():
    return tuple(p.detach() for p in task().model.parameters())


def losses(values, part):
    names = [name for name, _ in task().model.named_parameters()]
    out = torch.func.functional_call(
        task().model, dict(zip(names, values, strict=True)), (part[0],)
    )
    return torch.nn.functional.cross_entropy(out, part[1], reduction="none")


def test_what_they_claim_holds():
    verdicts = check_spec(spec(), examples=3, law="equals")
    verdicts += check_spec(spec(), examples=3, law="differs_from")
    assert [v.law.text for v in verdicts if not v.holds] == []
    assert len(verdicts) == 8


def test_a_factor_for_each_class_of_the_label_is_refused():
    """Labels are not tensors of the language; the columns are the classes that it knows."""
    text = """transform per_label {
  needs a[n,t,i], g[n,r,t,o], y[n,c]
  G[c,o,o'] = mean[n] sum[r,t] y[n,c] * g[n,r,t,o] * g[n,r,t,o']
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  yield C[o,i,o',i'] = sum[c] G[c,o,o'] * A[i,i']
}
curvature mine = block_ggn |> per_label
"""
    found = check_text(text)
    assert "E0207" in [x.code for x in found]
    assert any("`y[n,c]`" in x.headline for x in found)
