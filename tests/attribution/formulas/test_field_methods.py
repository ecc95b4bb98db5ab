"""Methods of the literature that do not ship, written in the language, against plain torch in float64."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.language import loads
from curvlang.testing.score_comparison import gradients_one_by_one
from tests.attribution.formulas.formulas import assert_close
from tests.attribution.test_source import network

FISHER = "curvature mine = hessian |> drop_residual(fisher = empirical)"
BLOCKS = f"{FISHER} |> block_diagonal(by = layer)"
TASK = network(weight_decay=0.0)
U, V = (gradients_one_by_one(TASK, part) for part in ("query", "train"))
EYE = torch.eye(TASK.P, dtype=torch.float64)


def leaves():
    """Inputs with their constant and gradients at the outputs, of both layers."""
    x, y = TASK.train
    first, _, last = TASK.model
    hidden = torch.tanh(first(x)).detach()
    e = TASK.model(x).softmax(-1).detach() - torch.nn.functional.one_hot(y, 3)
    one = torch.ones(len(x), 1, dtype=torch.float64)
    inside = (e @ last.weight.detach()) * (1 - hidden * hidden)
    return [(torch.cat([x, one], 1), inside), (torch.cat([hidden, one], 1), e)]


def blocks(make):
    """(C + 0.1 I)⁻¹ of blocks over (o, i), in the order of the parameters."""
    found, offset = torch.zeros_like(EYE), 0
    for a, e in leaves():
        o, i = e.shape[1], a.shape[1]
        weight = torch.arange(o * (i - 1)).view(o, i - 1) + offset
        bias = torch.arange(o) + offset + o * (i - 1)
        places = torch.cat([weight, bias[:, None]], 1).reshape(-1)
        block = make(a, e) + 0.1 * torch.eye(o * i, dtype=torch.float64)
        found[places[:, None], places] = torch.linalg.inv(block)
        offset += o * i
    return U @ found @ V.T


def tensor_normal(a, e):
    A = (e.square().sum(1)[:, None] * a).T @ a / len(a)
    G = (a.square().sum(1)[:, None] * e).T @ e / len(a)
    return torch.kron(G, A) / A.trace()


def rank_one(a, e):
    return torch.kron(torch.outer(e.mean(0), e.mean(0)), torch.outer(a.mean(0), a.mean(0)))


def diagonal_and_low_rank(a, e):
    rows = torch.einsum("no,ni->noi", e, a).flatten(1)
    C = rows.T @ rows / len(rows)
    s, Q = torch.linalg.eigh(C)
    low = Q[:, -2:] @ torch.diag(s[-2:]) @ Q[:, -2:].T
    return low + torch.diag((C - low).diag())


STRUCTURES = {
    # Tensor normal training: Ren & Goldfarb 2021 (arXiv:2106.02925).
    tensor_normal: """transform t {
      needs a[n,t,i], e[n,t,o]
      A[i,i'] = mean[n] sum[o] (sum[t] e[n,t,o] * a[n,t,i]) * (sum[t] e[n,t,o] * a[n,t,i'])
      G[o,o'] = mean[n] sum[i] (sum[t] e[n,t,o] * a[n,t,i]) * (sum[t] e[n,t,o'] * a[n,t,i])
      yield C[o,i,o',i'] = G[o,o'] * A[i,i'] / trace(A)
    }""",
    # Eva: Zhang et al. 2023 (arXiv:2308.02123).
    rank_one: """transform t {
      needs a[n,t,i], e[n,t,o]
      b[i] = mean[n,t] a[n,t,i]
      c[o] = mean[n] sum[t] e[n,t,o]
      yield C[o,i,o',i'] = c[o] * c[o'] * b[i] * b[i']
    }""",
    # SLANG: Mishkin et al. 2018 (arXiv:1811.04504).
    diagonal_and_low_rank: """transform t(rank: int = 2) {
      needs C[o,i,o',i']
      space k = min(rank, size[o] * size[i])
      W[o,i,k], s[k] = eigh(C[o,i | o',i'])
      D[o,i] = (sum[o',i'] identity[o,o'] * identity[i,i'] * C[o,i,o',i']) - sum[k] W[o,i,k]^2 * s[k]
      yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * D[o,i] + sum[k] W[o,i,k] * s[k] * W[o',i',k]
    }""",
}


@pytest.mark.parametrize("make", STRUCTURES)
def test_structures(make):
    op = cv.fit(loads(f"{STRUCTURES[make]}\n{BLOCKS} |> t"), TASK, progress=False)
    found = cv.influence(op, TASK, damping=0.1, progress=False)
    assert_close(found, blocks(make))


def fisher_kernel():
    K = torch.linalg.inv(V.T @ V / len(V) + 0.1 * EYE)
    own = [(x @ K * x).sum(1).sqrt() for x in (U, V)]
    return U @ K @ V.T / own[0][:, None] / own[1]


def centred_cosine():
    u, v = U - V.mean(0), V - V.mean(0)
    return u @ v.T / u.norm(dim=1)[:, None] / v.norm(dim=1)


SCORES = {
    fisher_kernel: """w[q,p] = solve(u)
      z[n,p] = solve(v)
      a[q] = sum[p] u[q,p] * w[q,p]
      b[n] = sum[p] v[n,p] * z[n,p]
      yield s[q,n] = (sum[p] u[q,p] * z[n,p]) / sqrt(a[q]) / sqrt(b[n])""",
    centred_cosine: """m[p] = mean[n] v[n,p]
      x[q,p] = u[q,p] - m[p]
      y[n,p] = v[n,p] - m[p]
      a[q] = sum[p] x[q,p]^2
      b[n] = sum[p] y[n,p]^2
      yield s[q,n] = (sum[p] x[q,p] * y[n,p]) / sqrt(a[q]) / sqrt(b[n])""",
}


@pytest.mark.parametrize("wanted", SCORES)
def test_scores(wanted):
    spec = loads(f"{FISHER}\nscore own {{ needs u[q,p], v[n,p]\n{SCORES[wanted]} }}")
    op = cv.fit(spec, TASK, progress=False)
    given = {"damping": 0.1} if "solve" in SCORES[wanted] else {}
    found = cv.influence(op, TASK, score=spec.scores["own"], progress=False, **given)
    assert_close(found, wanted())


def test_softmax_and_preconditioned_scores():
    text = """score soft { needs u[q,p], v[n,p]
      x[q,n] = exp(2 * sum[p] u[q,p] * v[n,p])
      z[q] = sum[n] x[q,n]
      yield s[q,n] = x[q,n] / z[q] }
    score adagrad { needs u[q,p], v[n,p]
      d[p] = mean[n] v[n,p]^2
      yield s[q,n] = sum[p] u[q,p] * v[n,p] / (sqrt(d[p]) + 1e-3) }"""
    spec, op = loads(text), cv.fit("identity", TASK, progress=False)
    found = {k: cv.influence(op, TASK, score=x, progress=False) for k, x in spec.scores.items()}
    assert_close(found["soft"], torch.softmax(2 * U @ V.T, 1))
    assert_close(found["adagrad"], U / (V.square().mean(0).sqrt() + 1e-3) @ V.T)


def test_the_last_layer_alone_is_a_task_with_fewer_parameters():
    last = TASK.restricted(["2.weight", "2.bias"])
    op = cv.fit("identity", last, progress=False)
    own = slice(TASK.P - last.P, None)
    found = cv.influence(op, last, damping=0.0, progress=False)
    assert_close(found, U[:, own] @ V[:, own].T)
