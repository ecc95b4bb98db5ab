"""What makes a model's output for an example something else than a function of the example."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import curvlang as cv
from curvlang.models.execution.widened import run_widened
from curvlang.models.tracing.independence import check_examples

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
N, D = 12, 8


class Given(nn.Module):
    """A model whose forward pass is a function of itself and its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.head, self.inner = nn.Linear(D, 3), nn.Linear(D, D)
        self.recurrent = nn.LSTM(1, 3, batch_first=True)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.function(self, x)


def task(function, dtype, examples=N):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    X, y = torch.randn(examples, D), torch.randint(0, 3, (examples,))
    model = Given(function).to(dtype).eval()
    return cv.Task(model, train=(X.to(dtype), y), query=(X[:2].to(dtype), y[:2]))


def chaotic(m, x):
    for _ in range(60):
        x = torch.tanh(12 * m.inner(x))
    return m.head(x)


def drawn_in_vain(m, x):
    return m.head(x) + 0 * torch.rand(len(x), 1).to(x)


def half_inside(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m.head(x).to(x.dtype)


FIXED = {
    "plain": lambda m, x: m.head(x),
    "chaotic": chaotic,
    "draws numbers in vain": drawn_in_vain,
    "outputs of very different sizes": lambda m, x: (
        m.head(x) * torch.tensor([1e4, 1.0, 1e-3]).to(x)
    ),
    "masked classes": lambda m, x: m.head(x).masked_fill(
        torch.tensor([False, False, True]), -math.inf
    )[:, :3],
    "recurrent": lambda m, x: m.recurrent(x.unsqueeze(-1))[0][:, -1],
    "half precision inside": half_inside,
    "examples in groups, as experts take them": lambda m, x: torch.stack(
        [(m.head if row[0] > 0 else nn.Sequential(m.inner, m.head))(row[None])[0] for row in x]
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FIXED)
def test_functions_of_one_example_are_taken(name, dtype):
    torch.manual_seed(1)
    model, X = Given(FIXED[name]).to(dtype).eval(), torch.randn(N, D).to(dtype)
    with torch.no_grad():
        check_examples(model, X[:3], model(X[:3]), X)


RANDOM = {
    "dropout": lambda m, x: functional.dropout(m.head(x), 0.1),
    "noise of a thousandth": lambda m, x: m.head(x) * (1 + 1e-3 * torch.randn(len(x), 3)).to(x),
    "paths dropped seldom": lambda m, x: m.head(x) * (torch.rand(len(x), 1) > 0.15).to(x),
    "Python's random numbers": lambda m, x: m.head(x) * (random.random() > 0.3),
    "NumPy's random numbers": lambda m, x: m.head(x) * (np.random.rand() > 0.3),
    "a counter": lambda m, x: m.head(x) * (1 + 0.01 * m.calls),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RANDOM)
def test_another_output_at_every_call(name, dtype):
    with pytest.raises(cv.SpecError, match=r"E0403.*when it is called again"):
        task(RANDOM[name], dtype)


MIXED = {
    "mean of the batch": lambda m, x: m.head(x - x.mean(0)),
    "a thousandth of that mean": lambda m, x: m.head(x - 1e-3 * x.mean(0)),
    "the example before": lambda m, x: m.head(x + 0.1 * x.roll(1, 0)),
    "the example after": lambda m, x: m.head(x + 0.1 * x.roll(-1, 0)),
    "sums over the examples before": lambda m, x: m.head(x.cumsum(0)),
    "attention between examples": lambda m, x: torch.softmax(x @ x.T, 1) @ m.head(x),
    "the largest entry of the batch": lambda m, x: m.head(x) / x.abs().max(),
    "statistics of the batch": lambda m, x: m.head(
        functional.batch_norm(x, None, None, training=True)
    ),
    "one example alone": lambda m, x: m.head(x) * (2 if len(x) == 1 else 1),
    "two examples": lambda m, x: m.head(x) * (2 if len(x) == 2 else 1),
    "many examples": lambda m, x: m.head(x) * (2 if len(x) > 4 else 1),
    "the number of examples": lambda m, x: m.head(x) * (1 + 0.01 * len(x)),
    "the place in the batch": lambda m, x: m.head(x) + 0.01 * torch.arange(len(x))[:, None].to(x),
    "one small output": lambda m, x: torch.cat([1e3 * m.head(x), (x - x.mean(0))[:, :1]], 1),
    "the same random numbers": lambda m, x: (
        torch.manual_seed(0),
        functional.dropout(m.head(x), 0.3),
    )[1],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MIXED)
def test_examples_that_influence_each_other(name, dtype):
    with pytest.raises(cv.SpecError, match=r"E0410.*depends on the batch"):
        task(MIXED[name], dtype)


def test_examples_of_later_places_are_tried():
    """Mixing that only examples behind the first three show, in queries too."""

    def mixed(m, x):
        return m.head(x) * (2 if bool((x[:, 0] > 50).any()) else 1)

    torch.manual_seed(0)
    X, y = torch.randn(N, D), torch.randint(0, 3, (N,))
    other = X.clone()
    other[-1, 0] = 99.0
    for train, query in ((other, X), (X, other)):
        with pytest.raises(cv.SpecError, match=r"E0410"):
            cv.Task(Given(mixed).eval(), train=(train, y), query=(query, y))
    cv.Task(Given(mixed).eval(), train=(X, y), query=(X, y))


@pytest.mark.parametrize("examples", [1, 2, 3])
def test_few_examples(examples):
    task(FIXED["plain"], torch.float32, examples)
    with pytest.raises(cv.SpecError, match=r"E0410"):
        task(MIXED["the number of examples"], torch.float32, examples)


def test_the_random_numbers_of_the_user_stay():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    X = torch.zeros(4, D)
    model = Given(drawn_in_vain)
    torch.manual_seed(3)
    with torch.no_grad():
        check_examples(model, X, model.head(X))
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("name", ["plain", "recurrent", "half precision inside"])
def test_widened_outputs_are_those_of_a_converted_model(name, dtype):
    torch.manual_seed(0)
    model, X = Given(FIXED[name]).to(dtype).eval(), torch.randn(5, D).to(dtype)
    found = run_widened(model, X, torch.float64)
    plain = "plain" if name.startswith("half") else name
    model.function = FIXED[plain]
    wanted = model.double()(X.double()).detach()
    assert found.dtype == torch.float64
    assert float((found - wanted).abs().max()) < 1e-12
