"""Copies compute the same, share no parameter, and can be made of any model."""

from __future__ import annotations

import functools
import threading
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, weight_norm

import curvlang as cv
from curvlang.models.execution.copies import copied, unwrapped
from tests.models.support import assert_equal


def linear():
    return nn.Linear(3, 3)


def perceptron():
    return nn.Sequential(linear(), nn.Tanh(), linear())


def with_lock():
    model = perceptron()
    model.lock = model[0].lock = threading.Lock()
    model.numbers = (k for k in range(3))
    return model


def with_listed_modules():
    model = perceptron()
    model[0].lock = threading.Lock()
    model.listed = [model[0], model[2]]
    model.forward = types.MethodType(
        lambda self, x: self.listed[1](torch.tanh(self.listed[0](x))), model
    )
    return model


def normed():
    with pytest.warns(FutureWarning):
        model = nn.Sequential(weight_norm(linear()), nn.Tanh(), linear())
    model(torch.zeros(1, 3))
    return model


def pruned():
    model = perceptron()
    prune.random_unstructured(model[0], "weight", amount=4)
    return model


def closure():
    model = perceptron()
    first, last = model[0], model[2]

    def outer(x):
        return last(inner(x))

    def inner(x):
        return torch.tanh(first(x))

    model.forward = outer
    return model


def default_argument():
    model = perceptron()
    model.forward = lambda x, own=(model[0], model[2]): own[1](torch.tanh(own[0](x)))
    return model


def partial():
    model = perceptron()
    model.forward = functools.partial(lambda own, x: own[2](torch.tanh(own[0](x))), model)
    return model


def hooked():
    """A low-rank update beside a layer, added by a hook."""
    model = perceptron()
    beside = model.beside = nn.Linear(3, 3)
    nn.Module.register_forward_hook(model[0], lambda module, given, out: out + beside(given[0]))
    model.forward = types.MethodType(lambda self, x: self[2](torch.tanh(self[0](x))), model)
    return model


def compiled_forward():
    model = perceptron()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_in_place():
    model = perceptron()
    model.compile(backend="eager")
    return model


MODELS = [
    perceptron,
    with_lock,
    with_listed_modules,
    normed,
    pruned,
    closure,
    default_argument,
    partial,
    hooked,
    compiled_forward,
    compiled_in_place,
]
models = pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)


@models
def test_a_copy_computes_with_its_own_parameters(make):
    torch.manual_seed(0)
    model = make().eval()
    X = torch.randn(4, 3)
    before = model(X).detach()
    made = copied(model)
    assert not {id(p) for p in made.parameters()} & {id(p) for p in model.parameters()}
    assert_equal(made(X), before)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert_equal(made(X), before)
    assert float((model(X) - before).detach().abs().max()) > 0.1
    assert made.double()(X.double()).dtype == torch.float64


@models
def test_an_evaluation_in_another_precision_runs(make):
    torch.manual_seed(0)
    model = make().eval()
    X, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    plain = copied(unwrapped(model)).double()
    moved = task.to(dtype=torch.float64)
    assert_equal(moved.model(X.double()), plain(X.double()))
    cv.influence(cv.fit("identity", moved), moved, damping=0.5)


def test_wrappers_are_seen_through():
    model = perceptron()
    assert unwrapped(model) is model
    assert unwrapped(nn.DataParallel(torch.compile(model, backend="eager"))) is model
    other = torch.compile(model, backend="eager")
    other.register_forward_hook(lambda module, given, out: 2 * out)
    assert unwrapped(other) is other
