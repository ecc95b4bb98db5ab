"""Precision of the passes, of large blocks, and of products in place of matrices."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.facade import chains_of, chosen
from curvlang.language import curvature_named, load, loads
from curvlang.runtime import fit
from tests.oracles import dense
from tests.small import network, task

EXACT = 1e-10  # only the order of summation differs
SOLVED = 1e-5  # conjugate gradients stop at a residual of 1e-6
SINGLE = 2e-6  # float32 passes, accumulated in float64
SPECS = ["hessian", "ggn", "block_ggn", "block_hessian", "kfac", "kfac_reduce", "ekfac", "diagonal"]


def stages_of(name, t, **options):
    (stages,) = fit.fit_chains(list(chains_of(chosen(load(name)))), t, limits=Limits(**options))
    return stages


def gap(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", [*SPECS, "ekfac_empirical", "identity"])
def test_float32_agrees_with_float64(name):
    t = task(network([3, 4, 3]), "cross_entropy")
    lower = t.to(dtype=torch.float32)
    found = cv.fit(name, lower)
    assert found.operator.dtype == torch.float64
    assert gap(found.dense(), cv.fit(name, t).dense()) <= SINGLE
    scores = cv.influence(found, lower, damping=0.5)
    assert gap(scores, cv.influence(cv.fit(name, t), t, damping=0.5)) <= 10 * SINGLE


def test_the_analysis_in_float32_gives_the_same_table():
    t = task(network([3, 4, 3]), "cross_entropy")
    single = cv.evaluate("ekfac", t, dtype=torch.float32)
    double = cv.evaluate("ekfac", t)
    for a, b in zip(single.steps, double.steps, strict=True):
        assert abs(a.forward - b.forward) <= 1e-5
        assert abs(a.points[-1].inverse - b.points[-1].inverse) <= 1e-5
        assert abs(a.points[-1].cosine - b.points[-1].cosine) <= 1e-5


def test_blocks_of_a_hessian_too_large_to_form_keep_their_precision():
    t = task(network([3, 4, 3]), "cross_entropy")
    H = dense.hessian(t.model, "cross_entropy", *t.train)
    block = stages_of("block_hessian", t, dense=t.P**2 - 1)[-1].operator
    assert [b.structure for b in block.blocks] == ["Dense", "Dense"]
    for op, index in zip(block.blocks, block.index, strict=True):
        assert gap(op.dense(), H[index][:, index]) <= EXACT
        assert torch.equal(op.dense(), op.dense().T)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
@pytest.mark.parametrize("bias", [True, False])
def test_products_solve_like_dense_matrices(loss, bias):
    t = task(network([3, 4, 2, 3], bias=bias), loss)
    H, G = dense.hessian(t.model, loss, *t.train), dense.ggn(t.model, loss, *t.train)
    eye = torch.eye(t.P, dtype=torch.float64)
    v = torch.randn(t.P, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    free = stages_of("block_ggn", t, dense=10)
    assert [s.operator.structure for s in free] == ["MatrixFree", "MatrixFree", "BlockDiagonal"]
    lowest = float(torch.linalg.eigvalsh(H)[0])
    for op, matrix, damping in (
        (free[0].operator, H, 0.1 - lowest),
        (free[1].operator, G, 1e-3),
    ):
        assert gap(op @ v, matrix @ v) <= EXACT
        wanted = torch.linalg.solve(matrix + damping * eye, v)
        assert gap(op.inverse(damping) @ v, wanted) <= SOLVED
    block = free[2].operator
    for op, index in zip(block.blocks, block.index, strict=True):
        own = G[index][:, index]
        wanted = torch.linalg.solve(own + 1e-3 * eye[: len(index), : len(index)], v[index])
        assert gap(op.inverse(1e-3) @ v[index], wanted) <= SOLVED


def test_an_indefinite_hessian_is_refused_and_not_solved():
    t = task(network([3, 4, 3]), "cross_entropy")
    H = dense.hessian(t.model, "cross_entropy", *t.train)
    values, vectors = torch.linalg.eigh(H)
    assert float(values[0]) < -0.1
    op = stages_of("hessian", t, dense=10)[0].operator
    with pytest.raises(SpecError, match="negative curvature"):
        _ = op.inverse(0.05) @ vectors[:, 0]


@pytest.mark.parametrize("name", ["block_ggn", "block_hessian", "empirical_fisher"])
def test_blocks_that_are_formed_stand_beside_blocks_that_are_multiplied(name):
    """In float32 entries are sums in float64, products are not: both are one operator."""
    chain = curvature_named(name)
    single = task(network([3, 14, 3]), "cross_entropy", n=12).to(dtype=torch.float32)
    if name == "empirical_fisher":
        chain = loads(
            "curvature x = hessian |> drop_residual(fisher = empirical) |> block_diagonal(by = layer)"
        ).curvatures["x"]
    between = 50**2  # One block has 56 rows, the other 45.
    ((*_, stage),) = fit.fit_chains([chain], single, last=True, limits=Limits(dense=between))
    ((*_, whole),) = fit.fit_chains([chain], single, last=True)
    assert [x.spectrum_known for x in stage.operator.parts] == [False, True]
    v = torch.randn(single.P, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for x in (v, v[:, :1]):
        wanted = whole.operator.apply(x)
        assert (stage.operator.apply(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_blocks_in_half_precision_are_symmetric():
    """Entries (i, j) and (j, i) are rounded apart: that is not a curvature that is not symmetric."""
    g = torch.Generator().manual_seed(9)
    X, y = 4 * torch.randn(32, 5, generator=g).double(), torch.randint(0, 6, (32,), generator=g)
    t = cv.Task(network([5, 64, 6]), "cross_entropy", (X, y), (X[:2], y[:2]))
    for name in ("block_ggn", "logra", "mc_fisher"):
        found = cv.fit(name, t.to(precision="bfloat16")).dense()
        assert gap(found, found.T) < EXACT
        assert gap(found, cv.fit(name, t).dense()) < 2e-2
