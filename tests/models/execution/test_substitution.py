"""A model is left exactly as it was, whatever stands in it and whatever its forward pass leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

import curvlang as cv
from curvlang.models.execution.substitution import functional_call, substituted
from tests.models.support import assert_equal


class Twice(nn.Module):
    """One module under two names, a parameter of it under a third."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = self.one
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.one.weight

    def forward(self, x):
        return self.tied(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.cells(x.unsqueeze(1))[0].sum(1))


def two_names():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


def normed():
    with pytest.warns(FutureWarning):
        return nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3))


def pruned():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    prune.random_unstructured(model[0], "weight", amount=4)
    return model


def parametrised():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 3))


MODELS = [two_names, Twice, normed, pruned, parametrised, Recurrent]
models = pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)


def state(model):
    """Every tensor of every module by where it stands: the objects, and their values."""
    places = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in [*vars(module).items(), *module._parameters.items()]:
            if isinstance(value, torch.Tensor):
                places[f"{path}.{name}"] = (value, value.detach().clone(), type(value))
    return places


def assert_unchanged(model, before):
    after = state(model)
    assert list(after) == list(before)
    for name, (value, copy, kind) in before.items():
        assert after[name][0] is value, name
        assert after[name][2] is kind
        assert torch.equal(value.detach(), copy)


@models
def test_curvatures_leave_the_model_as_it_was(make):
    torch.manual_seed(0)
    model = make().double().eval()
    X, y = torch.randn(6, 3).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    places = {id(p) for p in model.parameters()}
    for spec in ("hessian", "ggn"):
        operator = cv.fit(spec, task)
        cv.influence(operator, task, damping=0.5)
        assert {id(p) for p in model.parameters()} == places
        assert [name for name, p in model.named_parameters() if p.requires_grad] == names
        for module in model.modules():
            assert all(
                isinstance(p, nn.Parameter) for p in module._parameters.values() if p is not None
            )


@models
def test_other_tensors_give_what_a_model_with_them_gives(make):
    torch.manual_seed(0)
    model = make().double().eval()
    X = torch.randn(4, 3).double()
    plain = model(X)
    before = state(model)
    moved = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
    found = functional_call(model, moved, (X,))
    assert_unchanged(model, before)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    assert_equal(found, model(X))
    assert float((found - plain).detach().abs().max()) > 1e-3


@models
def test_a_pass_that_fails_changes_nothing(make):
    model = make().double().eval()
    model(torch.zeros(1, 3).double())
    before = state(model)
    zeros = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError), substituted(model, zeros):
        raise ZeroDivisionError
    assert_unchanged(model, before)


def test_no_other_way_to_replace_tensors_is_used():
    root = Path(cv.__file__).parent
    found = [
        path.name
        for path in root.rglob("*.py")
        if "import functional_call" in path.read_text()
        and "substitution import" not in path.read_text()
    ]
    assert found == []
