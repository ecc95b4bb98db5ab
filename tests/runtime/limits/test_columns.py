"""Exact columns of many outputs: what they cost is said before any of them is formed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.diagnostics.render import render
from curvlang.facade import chains_of, chosen
from curvlang.models.losses import losses
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.limits import columns
from curvlang.runtime.limits.memory import limited
from tests.models.support import assert_equal
from tests.small import network
from tests.small import task as make_task

CLASSES = 50_000
PRODUCTS = Limits(dense=10)


def vocabulary(classes=CLASSES):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, classes, bias=False))
    X, y = torch.randn(6, 2, 3).double(), torch.randint(0, classes, (6, 2))
    return cv.Task(model.double().eval(), "cross_entropy", (X, y), (X[:2], y[:2]))


def test_columns_that_do_not_fit_are_refused_with_their_cost():
    """Two positions of 50 000 classes: S of one example alone would take 75 GiB."""
    with pytest.raises(cv.MachineError) as caught:
        cv.fit("ekfac", vocabulary(), memory="1 GiB")
    shown = render(caught.value.diagnostics)
    assert "the 100000 exact columns of one example need 149.0 GiB" in shown
    assert "600000 go backward through the model for 6 examples, in each of 2 passes" in shown
    # Nothing is looked up here, so that no layer predicts words: its factor has 50 000 rows all the same.
    assert "`diagonal_lm` does so" in shown


class Words(nn.Module):
    """Words looked up and predicted by two matrices."""

    def __init__(self, words):
        super().__init__()
        self.table, self.head = nn.Embedding(words, 2), nn.Linear(2, words, bias=False)

    def forward(self, x):
        return self.head(self.table(x))


def text(words=600, positions=8):
    torch.manual_seed(0)
    X = torch.randint(0, words, (6, positions))
    return cv.Task(Words(words).double().eval(), "cross_entropy", (X, X), (X[:2], X[:2]))


SPECS = {
    "kfac": "kfac_lm",
    "ekfac": "ekfac_lm",
    "ekfac_empirical": "ekfac_lm_empirical",
    "ekfac_classifier": "ekfac_lm",
    "diagonal": "diagonal_lm",
}


@pytest.mark.parametrize("asked", SPECS)
def test_factors_of_words_are_refused_with_the_spec_that_fits(asked, monkeypatch):
    """Before any column is formed, also to measure the model; what is named runs in the same memory."""
    task, factor = text(), losses.CrossEntropy.factor

    def never(*args):
        raise AssertionError("columns were formed")

    monkeypatch.setattr(losses.CrossEntropy, "factor", never)
    with pytest.raises(cv.MachineError) as caught:
        cv.fit(asked, task, memory="2 MB")
    assert f"`{SPECS[asked]}` does so" in str(caught.value)
    with limited("2 MB"):
        fit_chains(chains_of(chosen(cv.load("block_ggn"))), task, last=True, limits=PRODUCTS)
    monkeypatch.setattr(losses.CrossEntropy, "factor", factor)
    assert cv.fit(SPECS[asked], task, memory="2 MB").operator.size == task.P


def test_drawn_labels_go_through_a_large_vocabulary():
    spec = cv.loads(
        """curvature mine = hessian |> drop_residual(fisher = mc) |> block_diagonal(by = layer)
        |> diagonal"""
    )
    task = vocabulary(5_000)
    assert cv.influence(cv.fit(spec, task), task, damping=0.1).shape == (2, 6)


def test_products_form_no_columns(monkeypatch):
    """The whole Gauss-Newton matrix by products: nothing of size C × C."""
    task = vocabulary(3_000)

    def never(*args):
        raise AssertionError("columns were formed")

    monkeypatch.setattr(losses.CrossEntropy, "factor", never)
    monkeypatch.setattr(losses.CrossEntropy, "hessian", never)
    ((stage,),) = fit_chains(chains_of(chosen(cv.load("ggn"))), task, last=True, limits=PRODUCTS)
    op = stage.operator
    assert op.structure == "MatrixFree"
    v = torch.randn(task.P, dtype=torch.float64)
    found = op @ v
    assert found.shape == v.shape
    assert float(v @ found) > 0


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
@pytest.mark.parametrize("positions", [None, 2])
def test_the_number_of_columns_is_the_factors(loss, positions):
    task = make_task(network([3, 4, 3]), loss, positions=positions)
    f = task.model(task.train[0][:1])
    assert task.loss.columns(f.numel()) == task.loss.factor(f, task.train[1][:1]).shape[-1]


def test_columns_that_just_fit(monkeypatch):
    task = make_task(network([3, 4, 3]), "cross_entropy")
    one = 8 * 3 * (3 + 4 + 3)

    monkeypatch.setattr(columns, "available", lambda device: one)
    whole = cv.fit("block_ggn", task).dense()
    monkeypatch.setattr(columns, "available", lambda device: one - 1)
    with pytest.raises(cv.MachineError):
        cv.fit("block_ggn", task)
    monkeypatch.undo()
    assert_equal(cv.fit("block_ggn", task).dense(), whole)
