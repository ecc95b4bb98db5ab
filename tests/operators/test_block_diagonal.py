"""Matrices known by their products: blocks of one Gauss–Newton matrix share each pass over the data."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import inverse_text, solver_text
from curvlang.models.derivatives import column_product
from curvlang.runtime.combine import fit_combination
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.inverse import invert
from curvlang.runtime.solver import FittedSolver
from tests.oracles import dense
from tests.small import network, task

EXACT = 1e-12  # only the order of summation differs
SOLVED = 1e-5  # conjugate gradients stop at a residual of 1e-6
DECAY = 0.2
SMALL = Limits(dense=10)


@pytest.fixture
def passes(monkeypatch):
    """Calls that compute columns: one for each batch of a pass."""
    calls = []
    own = column_product.leaves

    def counted(*given, **named):
        calls.append(given)
        return own(*given, **named)

    monkeypatch.setattr(column_product, "leaves", counted)
    return calls


def decayed(widths):
    t = task(network(widths), "cross_entropy")
    return t.replaced(weight_decay=DECAY)


def block_matrix(t, op):
    G = dense.ggn(t.model, "cross_entropy", *t.train)
    kept = torch.zeros_like(G)
    for index in op.index:
        kept[index[:, None], index] = G[index[:, None], index]
    return kept


@pytest.mark.parametrize("spec", ["block_ggn", "ggn |> block_diagonal(by = parameter)"])
def test_a_product_with_all_blocks_is_one_pass(spec, passes):
    t = decayed([3, 4, 4, 3])
    (chain,) = chains_of(cv.loads(f"curvature x = {spec}").curvatures["x"])
    ((stage,),) = fit_chains([chain], t, last=True, limits=SMALL)
    op = stage.operator
    assert len(op.names) > 2
    assert op.products == 1
    wanted = block_matrix(t, op) + DECAY * torch.eye(t.P, dtype=torch.float64)
    v = torch.randn(t.P, 9, dtype=torch.float64)
    assert float((op.apply(v) - wanted @ v).abs().max()) < EXACT
    assert len(passes) == 1


def test_a_solver_takes_one_pass_for_each_iteration(passes):
    t = decayed([3, 4, 4, 3])
    (chain,) = chains_of(chosen(cv.load("block_ggn")))
    ((stage,),) = fit_chains([chain], t, last=True, limits=SMALL)
    records = []
    inverse = invert(
        stage.operator,
        inverse_text("tikhonov(damping = 0.1)", "x"),
        FittedSolver(solver_text("cg", "x")),
        report=records.append,
    )
    v = torch.randn(t.P, 9, dtype=torch.float64)
    matrix = block_matrix(t, stage.operator) + (DECAY + 0.1) * torch.eye(t.P, dtype=torch.float64)
    wanted = torch.linalg.solve(matrix, v)
    assert float((inverse.apply(v) - wanted).norm() / wanted.norm()) < SOLVED
    # A product at the end measures the residual.
    assert len(passes) == records[0].iterations + 1


def test_blocks_of_two_curvatures_in_a_sum():
    t = decayed([3, 4, 3])
    spec = cv.loads("curvature x = 0.5 * block_ggn - 2 * (ggn |> block_diagonal) + 0.1 * diagonal")
    op = fit_combination(spec.curvatures["x"], t, limits=SMALL).operator
    matrix = block_matrix(t, op)
    wanted = -1.5 * matrix + torch.diag(0.1 * matrix.diagonal())
    wanted += DECAY * torch.eye(t.P, dtype=torch.float64)
    v = torch.randn(t.P, 9, dtype=torch.float64)
    assert float((op.apply(v) - wanted @ v).abs().max()) < EXACT


def test_blocks_of_the_hessian_are_multiplied_one_by_one():
    t = decayed([3, 4, 3])
    (chain,) = chains_of(chosen(cv.load("block_hessian")))
    ((stage,),) = fit_chains([chain], t, last=True, limits=SMALL)
    assert stage.operator.products == len(stage.operator.names)
