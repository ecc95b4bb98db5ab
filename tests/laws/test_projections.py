"""Projections, low rank and what they lift, against dense numpy references in float64."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.models.tracing.blocks import blocks
from curvlang.models.tracing.leaves import LeafRequest, leaves
from tests.oracles import dense
from tests.small import network, task

EXACT = 1e-9  # float64; sums of a few thousand products
FAR = 1e-4  # a twin must miss by more than this, relative to the block
POSITIONS = [None, 3]


@cache
def setting(positions):
    """A task with unequal layers, and its `a`, `g` per layer as numpy arrays."""
    t = task(network([4, 6, 3], "tanh"), "cross_entropy", n=9, positions=positions, d_in=4)
    found = leaves(
        t.model,
        t.loss,
        *t.train,
        blocks(t.model, t.train[0][:1], "layer"),
        LeafRequest({"a", "g"}),
    )
    return t, {k: (v["a"].double().numpy(), v["g"].double().numpy()) for k, v in found.items()}


def gradient(a, g):
    """[N, R, O, I]"""
    return np.einsum("nrto,nti->nroi", g, a)


def gram(a, g):
    rows = gradient(a, g).reshape(len(a), g.shape[1], -1)
    return np.einsum("nrp,nrq->pq", rows, rows) / len(a)


def draw(rows, columns, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, min(rows, columns))))[0]


def kfac(a, g):
    A = np.einsum("nti,ntj->ij", a, a) / (a.shape[0] * a.shape[1])
    return np.einsum("nrto,nrtp->op", g, g) / len(a), A


def ekfac(a, g):
    G, A = kfac(a, g)
    U, V = np.linalg.eigh(G)[1], np.linalg.eigh(A)[1]
    S = (np.einsum("om,nroi,ik->nrmk", U, gradient(a, g), V) ** 2).sum((0, 1)) / len(a)
    B = np.kron(U, V)
    return (B * S.reshape(-1)) @ B.T


def diagonal(a, g):
    return np.diag(np.diag(gram(a, g)))


def per_output(a, g):
    o, i = g.shape[-1], a.shape[-1]
    full = gram(a, g).reshape(o, i, o, i)
    return np.einsum("oiqj,oq->oiqj", full, np.eye(o)).reshape(o * i, o * i)


REFERENCES = {
    "": gram,
    "|> kronecker_factor": lambda a, g: np.kron(*kfac(a, g)),
    "|> kronecker_factor |> eigen_correct": ekfac,
    "|> diagonal": diagonal,
    "|> per_output": per_output,
    "|> foof": lambda a, g: np.kron(np.eye(g.shape[-1]), kfac(a, g)[1]),
}


def assert_blocks(op, wanted, tolerance=EXACT):
    for name, block in op.blocks.items():
        found, matrix = block.dense().numpy(), wanted(name)
        assert found.shape == matrix.shape
        assert np.abs(found - matrix).max() <= tolerance * max(1.0, np.abs(matrix).max()), name


def fit(chain, t, name="x"):
    return cv.fit(cv.loads(f"curvature x = {chain}"), t)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("after", REFERENCES)
@pytest.mark.parametrize("sides", ["both", "inputs", "outputs"])
def test_a_projection_is_followed_by_any_stage(positions, after, sides):
    t, given = setting(positions)
    op = fit(
        f"block_ggn |> project_random(inputs = 3, outputs = 2, sides = {sides}, seed = 5) {after}",
        t,
    )

    def wanted(name):
        a, g = given[name]
        o, i = g.shape[-1], a.shape[-1]
        P = draw(i, 3, 5) if sides != "outputs" else np.eye(i)
        R = draw(o, 2, 6) if sides != "inputs" else np.eye(o)
        B = np.kron(R, P)
        return B @ REFERENCES[after](a @ P, g @ R) @ B.T

    assert_blocks(op, wanted)


@pytest.mark.parametrize("positions", POSITIONS)
def test_leading_coordinates(positions):
    t, given = setting(positions)
    op = fit("block_ggn |> project_leading(inputs = 3, outputs = 2)", t)

    def wanted(name):
        a, g = given[name]
        G, A = kfac(a, g)
        P, R = np.linalg.eigh(A)[1][:, -3:], np.linalg.eigh(G)[1][:, -2:]
        B = np.kron(R, P)
        return B @ gram(a @ P, g @ R) @ B.T

    assert_blocks(op, wanted)


@pytest.mark.parametrize(
    "after", ["", "|> kronecker_factor", "|> kronecker_factor |> eigen_correct"]
)
def test_a_full_projection_changes_nothing(after):
    t, _ = setting(None)
    op = fit(f"block_ggn |> project_random(inputs = 99, outputs = 99) {after}", t)
    plain = fit(f"block_ggn {after}", t)
    assert_blocks(op, lambda name: plain.blocks[name].dense().numpy())


def test_a_full_projection_moves_the_diagonal():
    t, _ = setting(None)
    op = fit("block_ggn |> project_random(inputs = 99, outputs = 99) |> diagonal", t)
    assert float((op.dense() - fit("diagonal", t).dense()).norm()) > FAR


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_projection_after_a_projection(positions):
    t, given = setting(positions)
    chain = "project_random(inputs = 4, outputs = 3, seed = 1) |> project_random(inputs = 2, outputs = 2, seed = 8)"
    op = fit(f"block_ggn |> {chain} |> kronecker_factor", t)

    def wanted(name):
        a, g = given[name]
        P = draw(a.shape[-1], 4, 1)
        R = draw(g.shape[-1], 3, 2)
        P, R = P @ draw(P.shape[1], 2, 8), R @ draw(R.shape[1], 2, 9)
        B = np.kron(R, P)
        return B @ np.kron(*kfac(a @ P, g @ R)) @ B.T

    assert_blocks(op, wanted)


@pytest.mark.parametrize(
    "before", ["kronecker_factor", "diagonal", "per_output", "kronecker_factor |> eigen_correct"]
)
def test_a_projection_of_a_structure_compresses_it(before):
    t, given = setting(None)
    op = fit(f"block_ggn |> {before} |> project_random(inputs = 3, outputs = 2)", t)

    def wanted(name):
        a, g = given[name]
        B = np.kron(draw(g.shape[-1], 2, 1), draw(a.shape[-1], 3, 0))
        return B @ B.T @ REFERENCES[f"|> {before}"](a, g) @ B @ B.T

    assert_blocks(op, wanted)


def test_the_hessian_is_projected():
    t, _ = setting(None)
    op = fit("block_hessian |> project_random(inputs = 3, outputs = 2)", t)
    plain = cv.fit("block_hessian", t)
    for name, block in op.blocks.items():
        left, right = block.left.numpy(), block.right.numpy()
        B = np.kron(left, right)
        wanted = B @ B.T @ plain.blocks[name].dense().numpy() @ B @ B.T
        assert np.abs(block.dense().numpy() - wanted).max() <= EXACT


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("source", ["ggn", "hessian"])
def test_the_whole_model_is_projected(positions, source):
    t, _ = setting(positions)
    op = fit(f"{source} |> project_model(dimension = 7, seed = 3)", t)
    full = cv.fit(source, t).dense().numpy()
    P = draw(len(full), 7, 3)
    wanted = P @ P.T @ full @ P @ P.T
    assert np.abs(op.dense().numpy() - wanted).max() <= EXACT * max(1, np.abs(wanted).max())
    assert np.abs(wanted - full).max() > FAR


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("refine", ["none", "once", "twice"])
def test_low_rank_of_full_rank_is_the_block(positions, refine):
    t, given = setting(positions)
    op = fit(f"block_ggn |> low_rank(rank = 999, refine = {refine})", t)
    assert_blocks(op, lambda name: gram(*given[name]))


def test_low_rank_is_exact_where_the_block_has_that_rank():
    t = task(network([4, 6, 3], "tanh"), "cross_entropy", n=3, d_in=4)
    block = cv.fit("block_ggn", t)
    # Three examples with three softmax columns of rank two: rank six.
    op = fit("block_ggn |> low_rank(rank = 6, oversample = 0, refine = none)", t)
    assert_blocks(op, lambda name: block.blocks[name].dense().numpy())
    assert all(b.structure in ("LowRank", "Dense") for b in op.blocks.values())
    short = fit("block_ggn |> low_rank(rank = 2)", t)
    assert float((short.dense() - block.dense()).norm()) > FAR


@pytest.mark.parametrize("positions", POSITIONS)
def test_low_rank_finds_the_leading_eigenpairs(positions):
    t, given = setting(positions)
    rank, extra = 4, 4
    op = fit(f"block_ggn |> low_rank(rank = {rank}, oversample = {extra}, refine = twice)", t)
    for name, block in op.blocks.items():
        full = gram(*given[name])
        values, vectors = np.linalg.eigh(full)
        best = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
        gap = np.linalg.norm(block.dense().numpy() - full) / np.linalg.norm(full - best)
        # Halko et al., theorem 10.5, bounds the expected excess by (1 + k/(p - 1))^½ before any
        # power iteration; two of them leave far less.
        assert 1 - EXACT <= gap < (1 + rank / (extra - 1)) ** 0.5
        found = np.sort(block.eigenvalues().numpy())[-rank:]
        assert np.all(found <= values[-rank:] + EXACT)


@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_inverses_are_exact_on_the_complement(damping):
    t, _ = setting(None)
    for chain in (
        "low_rank(rank = 3)",
        "project_random(inputs = 2, outputs = 2) |> kronecker_factor",
    ):
        op = fit(f"block_ggn |> {chain}", t)
        shifted = op.dense() + damping * torch.eye(op.shape[0], dtype=torch.float64)
        product = op.inverse(damping).dense() @ shifted
        assert float((product - torch.eye(op.shape[0], dtype=torch.float64)).abs().max()) <= 1e-8


def test_the_restricted_inverse_leaves_the_complement_out():
    t, _ = setting(None)
    text = "curvature x = block_ggn |> project_random(inputs = 2, outputs = 2)\nevaluate x with restricted(damping = 0.01)"
    op = cv.fit(cv.loads(text), t)
    plain, inverse = op.dense().numpy(), op.inverse().dense().numpy()
    values, vectors = np.linalg.eigh(plain)
    kept = values > 1e-9 * values.max()
    wanted = (vectors[:, kept] / (values[kept] + 0.01)) @ vectors[:, kept].T
    assert np.abs(inverse - wanted).max() <= 1e-7
    full = op.inverse(0.01).dense().numpy()
    assert np.abs(full - wanted).max() > 1, "tikhonov has 1/λ on the complement"


def test_restricted_scores_are_those_of_the_projected_space():
    """The scores of a method that never leaves its projected space: (Bᵀu)ᵀ (BᵀGB + λ)⁻¹ (Bᵀv)."""
    t, given = setting(None)
    spec = cv.loads(
        "curvature x = block_ggn |> project_random(inputs = 2, outputs = 2)\n"
        "evaluate x with restricted(damping = 0.01)"
    )
    op = cv.fit(spec, t)
    found = cv.influence(op, t)
    queries = cv.influence(op, t, inverse="tikhonov(damping = 0.01)")
    gradients = {k: _gradients(t, part) for k, part in (("query", t.query), ("train", t.train))}
    wanted = np.zeros(found.shape)
    for name, index in zip(op.operator.names, op.operator.index, strict=True):
        a, g = given[name]
        B = np.kron(draw(g.shape[-1], 2, 1), draw(a.shape[-1], 2, 0))
        u, v = (gradients[k][:, index] @ B for k in ("query", "train"))
        inner = B.T @ gram(a, g) @ B + 0.01 * np.eye(4)
        wanted += u @ np.linalg.solve(inner, v.T)
    assert np.abs(found.numpy() - wanted).max() <= 1e-7
    assert np.abs(queries.numpy() - wanted).max() > FAR, "tikhonov counts the complement"


def _gradients(t, part):
    return dense.per_example_gradients(t.model, "cross_entropy", *part).numpy()
