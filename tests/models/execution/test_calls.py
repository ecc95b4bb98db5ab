"""Whatever a model raises is one diagnostic with the exception's type and whole text."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.execution.calls import run_model
from tests.models.support import assert_refused

RAISED = [
    RuntimeError("flash attention needs a GPU\nsee the second line"),
    ValueError("no"),
    NotImplementedError(),
    AttributeError("no such thing"),
    KeyError("pixel_values"),
    AssertionError("wrong size"),
    OSError("file not found"),
    ZeroDivisionError("division by zero"),
]


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.e = nn.Embedding(5, 3)
        self.error = error

    def forward(self, input_ids):
        raise self.error


@pytest.mark.parametrize("error", RAISED, ids=lambda e: type(e).__name__)
def test_every_exception_of_a_model_is_told_whole(error):
    with pytest.raises(SpecError) as caught:
        run_model(Raises(error), torch.ones(3, 4), "query")
    (found,) = caught.value.diagnostics
    assert found.code == "E0408"
    assert type(error).__name__ in found.headline
    assert "`query`" in found.headline
    assert found.notes[0].startswith(type(error).__name__)
    assert str(error) in found.notes[0]
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("options", [{}, {"shift_labels": True}, {"shift_labels": False}])
@pytest.mark.parametrize("error", RAISED[:3], ids=lambda e: type(e).__name__)
def test_it_comes_first_whatever_is_said_of_the_labels(error, options):
    ids = torch.ones(8, 4, dtype=torch.int64)
    rows = {"input_ids": ids, "labels": ids}
    make = lambda: cv.Task(Raises(error).eval(), "cross_entropy", rows, rows, **options)  # noqa: E731
    assert_refused("E0408", make, type(error).__name__)


@pytest.mark.parametrize("error", [MemoryError("much"), torch.OutOfMemoryError("more")])
def test_running_out_of_memory_is_no_fault_of_the_model(error):
    with pytest.raises(type(error)):
        run_model(Raises(error), torch.ones(3, 4), "train")


@pytest.mark.parametrize(
    ("model", "X", "words"),
    [
        (nn.Linear(5, 4), torch.zeros(3, 2), "first layer expects"),
        (nn.Conv2d(3, 2, 1), torch.zeros(3, 3, 4, 4, dtype=torch.uint8), "`X.float()`"),
        (nn.Linear(2, 4), torch.zeros(3, 2, dtype=torch.int64), "`X.float()`"),
        (nn.Embedding(3, 2), torch.full((3, 2), 7), "the model's table is asked for row 7"),
        (Raises(RuntimeError("needs a GPU")), torch.zeros(3, 2), "run by itself"),
    ],
)
def test_the_repair_is_about_what_was_wrong(model, X, words):
    assert_refused("E0408", lambda: run_model(model, X, "train"), words)
