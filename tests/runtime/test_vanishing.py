"""A Gauss-Newton matrix that is zero by definition is said to be so, once and with the repair."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.runtime.vanishing import ZeroCurvature

N = 8


def given(loss):
    torch.manual_seed(0)
    X, y = torch.randn(N, 3).double(), torch.arange(N) % 3
    model = nn.Linear(3, 3).double()
    if isinstance(loss, nn.NLLLoss):
        model = nn.Sequential(model, nn.LogSoftmax(1))
    if isinstance(loss, nn.L1Loss | nn.HuberLoss | nn.MSELoss):
        y = torch.randn(N, 3).double() + 20
    return cv.Task(model, loss, train=(X, y), query=(X[:2], y[:2]))


LINEAR = [nn.NLLLoss(), nn.L1Loss(), nn.MultiMarginLoss(), nn.HuberLoss(delta=0.1)]
"""The Huber loss is linear where every residual is larger than δ."""

SPECS = ["ggn", "kfac", "curvature x = hessian |> drop_residual(fisher = mc)"]


def specs(text):
    return cv.loads(text) if " " in text else text


@pytest.mark.parametrize("loss", LINEAR, ids=lambda loss: type(loss).__name__)
def test_a_loss_that_is_linear_in_the_outputs_is_told(loss):
    for text in SPECS:
        task = given(loss)
        with pytest.warns(ZeroCurvature, match="linear in the outputs") as told:
            operator = cv.fit(specs(text), task)
        (own,) = (w for w in told if w.category is ZeroCurvature)
        assert "`fisher = empirical`" in str(own.message)
        assert float(operator.dense().abs().max()) == 0


def test_results_have_the_note():
    with pytest.warns(ZeroCurvature):
        result = cv.evaluate("ggn", given(nn.L1Loss()))
    assert any("linear in the outputs" in note for note in result.notes)


@pytest.mark.parametrize(
    "loss", ["cross_entropy", nn.HuberLoss(delta=100.0), nn.MSELoss()], ids=str
)
def test_other_losses_are_not(loss):
    task = given(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZeroCurvature)
        for text in SPECS:
            cv.fit(specs(text), task)
        linear = given(nn.L1Loss())
        cv.fit(cv.loads("curvature x = hessian |> drop_residual(fisher = empirical)"), linear)
        cv.fit("identity", linear)


def test_one_example_with_curvature_is_enough():
    """The first examples have none: all are looked at before anything is said."""
    task = given(nn.HuberLoss(delta=0.1))
    X, y = task.train
    with torch.no_grad():
        y[-1] = task.model(X[-1:])[0] + 0.01
    task = cv.Task(task.model, nn.HuberLoss(delta=0.1), train=(X, y), query=(X[:2], y[:2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZeroCurvature)
        assert float(cv.fit("ggn", task).dense().abs().max()) > 0
