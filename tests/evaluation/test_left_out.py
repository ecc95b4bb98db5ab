"""Dense steps that were not asked for and take long are known by products; errors against them are estimates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.evaluation import left_out as rule
from curvlang.evaluation.errors import PROBES
from curvlang.evaluation.result_file import dumps, loads
from curvlang.reporting.notation import quantity
from curvlang.reporting.tables.table import to_text
from tests.small import network, task


@pytest.fixture
def small(monkeypatch):
    """A budget that the whole matrix is over and the blocks are not."""
    given = task(network([3, 4, 3]), "cross_entropy", n=12)
    blocks = sum(block.size**3 for block in given.blocks())
    monkeypatch.setattr(rule, "BUDGET", rule.DECOMPOSED * blocks + 1)
    return given


def labels(result):
    return [step.label for step in result.steps]


def test_what_is_long_and_not_asked_for_is_known_by_its_products(small):
    result = cv.evaluate("ekfac", small)
    assert labels(result) == ["hessian", "ggn", "block_ggn", "kfac", "ekfac"]
    assert result.reference == "hessian"
    (note,) = [x for x in result.notes if "not formed" in x]
    assert "± is one standard error: forward errors are from 32 random vectors" in to_text(
        result, 300
    )
    assert "`hessian` (dense matrices of 31 rows" in note
    hessian, ggn, block, _, ekfac = result.steps
    assert (hessian.structure, ggn.structure) == ("by products", "by products")
    assert block.structure == "Dense blocks"
    assert hessian.forward == 0
    assert "`solve cg`" in hessian.points[0].note
    point = ekfac.points[ekfac.shared]
    assert (point.influence, point.cosine) == (None, None)
    assert "no reference: known by products alone" in point.note
    assert point.inverse_gradients == 12
    assert ekfac.forward_probes == PROBES
    assert f"± {quantity(ekfac.forward_standard_error)}" in to_text(result, 200)
    assert read_back(result).to_json() == result.plain().to_json()


def read_back(result):
    return loads(dumps(result.to_json()))


def test_estimates_are_near_the_exact_errors(small, monkeypatch):
    """Within a few standard errors, and repeated exactly; also of the inverse error, on all gradients."""
    found = cv.evaluate("ekfac", small, seed=3)
    assert found.to_json() == cv.evaluate("ekfac", small, seed=3).to_json()
    monkeypatch.setattr(rule, "BUDGET", 1e15)
    exact = cv.evaluate("ekfac", small, seed=3)
    for one, other in zip(found.steps[1:], exact.steps[1:], strict=True):
        assert 0 < one.forward_standard_error < other.forward
        assert abs(one.forward - other.forward) < 4 * one.forward_standard_error
    for one, other in zip(found.steps[2].points, exact.steps[2].points, strict=True):
        # Twelve examples are all that there are.
        assert one.inverse == pytest.approx(other.inverse, rel=1e-8)
        assert one.inverse_standard_error > 0
        assert other.inverse_standard_error is None


def test_a_solver_gives_the_scores_of_what_is_not_formed(small, monkeypatch):
    spec = cv.loads(
        "curvature mine = block_ggn\nevaluate mine with tikhonov(damping = 1) on digits {\n  solve cg\n}"
    )
    found = cv.evaluate(spec, small)
    monkeypatch.setattr(rule, "BUDGET", 1e15)
    exact = cv.evaluate(spec, small)
    assert found.steps[0].structure == "by products"
    for one, other in zip(found.steps, exact.steps, strict=True):
        assert one.points[0].influence == pytest.approx(other.points[0].influence, abs=1e-3)
        assert one.points[0].cosine == pytest.approx(other.points[0].cosine, abs=1e-4)


def test_columns_that_are_sampled_have_no_products(small):
    chain = (
        "hessian |> drop_residual(fisher = mc) |> block_diagonal(by = layer) |> kronecker_factor"
    )
    result = cv.evaluate(cv.loads(f"curvature mine = {chain}"), small)
    assert len(labels(result)) == 3
    assert any("has no products" in note for note in result.notes)


def test_what_is_asked_for_is_kept(small):
    spec = cv.loads("curvature mine = ekfac\nevaluate mine on digits { error against hessian }")
    result = cv.evaluate(spec, small)
    assert result.reference == "hessian"
    assert "hessian" in labels(result)
    assert labels(cv.evaluate("ggn", small))[-1] == "ggn"


def test_within_the_budget_nothing_is_left_out():
    result = cv.evaluate("kfac", task(network([3, 4, 3]), "cross_entropy", n=12))
    assert labels(result) == ["hessian", "ggn", "block_ggn", "kfac"]
    assert not any("left out" in note for note in result.notes)


def test_a_sum_is_compared_with_the_products_of_the_hessian(small):
    result = cv.evaluate(cv.loads("curvature mine = 0.5 * kfac + 0.5 * diagonal"), small)
    assert (labels(result), result.reference) == (["hessian", "mine"], "hessian")
    assert result.steps[1].forward_standard_error > 0


class Rough(torch.autograd.Function):
    """A function without a derivative of its backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - x.tanh() ** 2)


class Tanh(nn.Module):
    def forward(self, x):
        return Rough.apply(x)


def test_a_model_without_a_hessian_is_evaluated_without_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), Tanh(), nn.Linear(4, 3)).double().eval()
    X, y = torch.randn(12, 3).double(), torch.randint(0, 3, (12,))
    result = cv.evaluate("kfac", cv.Task(model, "cross_entropy", (X, y), (X[:3], y[:3])))
    assert labels(result) == ["ggn", "block_ggn", "kfac"]
    assert any("`hessian` (" in note for note in result.notes)


def test_matrices_that_are_too_large_to_form_have_an_estimated_forward_error(monkeypatch):
    """Structures with no rule in common, of more rows than are formed."""
    given = task(network([3, 4, 3]), "cross_entropy", n=12)
    exact = cv.evaluate("tkfac", given)
    monkeypatch.setattr("curvlang.operators.operator.DENSE_AT_MOST", 13)
    result = cv.evaluate("tkfac", given)
    estimated = [
        (one, other)
        for one, other in zip(result.steps, exact.steps, strict=True)
        if one.forward_standard_error is not None
    ]
    assert estimated
    for one, other in estimated:
        assert abs(one.forward - other.forward) < 4 * one.forward_standard_error
    assert all(point.influence is not None for step in result.steps for point in step.points)
