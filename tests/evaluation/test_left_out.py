"""Dense steps that nobody asked for are left out of an evaluation where they take long, and said so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.evaluation import left_out as rule
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


def test_what_is_long_and_not_asked_for_is_left_out(small):
    result = cv.evaluate("ekfac", small)
    assert labels(result) == ["block_ggn", "kfac", "ekfac"]
    assert result.reference == "block_ggn"
    (note,) = [x for x in result.notes if "left out" in x]
    assert "`hessian` (dense matrices of 31 rows" in note
    assert "errors are against `block_ggn`" in note


def test_steps_that_are_kept_are_what_they_were(small, monkeypatch):
    short = cv.evaluate("ekfac", small, seed=1)
    monkeypatch.setattr(rule, "BUDGET", 1e15)
    whole = cv.evaluate(
        cv.loads("curvature mine = ekfac\nevaluate mine on digits { error against block_ggn }"),
        small,
        seed=1,
    )
    assert labels(whole)[-3:-1] == labels(short)[:2]
    for one, other in zip(reversed(short.steps), reversed(whole.steps), strict=False):
        assert one.forward == pytest.approx(other.forward, rel=1e-9, abs=1e-12)
        pairs = zip(one.points, other.points, strict=True)
        assert all(a.influence == pytest.approx(b.influence, abs=1e-9) for a, b in pairs)


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


def test_a_sum_is_compared_with_itself_alone(small):
    result = cv.evaluate(cv.loads("curvature mine = 0.5 * kfac + 0.5 * diagonal"), small)
    assert (labels(result), result.reference) == (["mine"], "mine")


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


def test_matrices_that_are_too_large_to_form_have_no_forward_error(monkeypatch):
    """Structures with no rule in common, of more rows than are formed: absent, and the rest is there."""
    monkeypatch.setattr("curvlang.operators.operator.DENSE_AT_MOST", 13)
    result = cv.evaluate("tkfac", task(network([3, 4, 3]), "cross_entropy", n=12))
    assert any(step.forward is None for step in result.steps)
    assert all(point.influence is not None for step in result.steps for point in step.points)
