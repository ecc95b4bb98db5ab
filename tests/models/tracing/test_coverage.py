from __future__ import annotations

import pytest
import torch
from torch import nn

from curvlang.models.task import Task
from curvlang.models.tracing.coverage import coverage
from tests.oracles import dense


def language() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5))
    model[3].bias.requires_grad_(False)
    return model.double()


def test_every_parameter_has_a_row() -> None:
    found = coverage(language())
    assert found.covered == ("0.weight", "1.weight", "1.bias", "3.weight")
    assert found.others == ("2.weight", "2.bias")
    assert found.frozen == ("3.bias",)
    assert not found.complete
    assert found.share is None
    reasons = {row.parameter: row.reason for row in found.rows}
    assert "LayerNorm" in reasons["2.weight"]
    assert "requires_grad" in reasons["3.bias"]


def test_shares_are_those_of_the_squared_per_example_gradients() -> None:
    model = language()
    tokens = torch.tensor([[0, 1], [2, 3], [4, 0]])
    task = Task(model, train=(tokens, tokens.flip(1)), query=(tokens, tokens))
    found = coverage(model, task)
    squares = dense.per_example_gradients(model, "cross_entropy", *task.train).square().sum(0)
    for row in found.rows:
        if row.status != "frozen":
            own = squares[dense.layer_index(model, [row.parameter])].sum() / squares.sum()
            assert row.share == pytest.approx(float(own), rel=1e-10)
    assert found.share == pytest.approx(
        float(squares[dense.layer_index(model, list(found.covered))].sum() / squares.sum())
    )


def test_shared_parameters_are_rows_of_their_first_owner() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight, second.bias = first.weight, first.bias
    assert coverage(nn.Sequential(first, nn.Tanh(), second)).covered == ("0.weight", "0.bias")
    other = nn.Linear(3, 3, bias=False)
    other.weight = first.weight
    found = coverage(nn.Sequential(first, nn.Tanh(), other))
    assert found.others == ("0.weight", "0.bias")
    assert "shared with `2` (Linear)" in found.rows[0].reason


def test_it_prints_as_a_table() -> None:
    lines = str(coverage(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["0.weight", "3×2", "Linear", "covered"],
        ["0.bias", "3", "Linear", "covered"],
    ]
    assert lines[-1] == "9 of 15 parameters covered; 0 frozen"


def test_wrapped_models_are_the_tasks_own() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    X, y = torch.randn(5, 3), torch.arange(5) % 3
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        task = Task(wrapped, "cross_entropy", train=(X, y), query=(X, y))
        assert coverage(wrapped, task).complete  # type: ignore[arg-type]
