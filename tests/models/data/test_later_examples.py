"""Tokens outside a table, and models that fail on examples that no check has looked at."""

import pytest
import torch
from torch import nn

import curvlang as cv

N, T, ROWS = 30, 4, 7
LATE = 13


class Given(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


class Named(nn.Module):
    """Reads fields; the tables are of different sizes."""

    def __init__(self):
        super().__init__()
        self.tokens, self.kinds = nn.Embedding(ROWS, 3), nn.Embedding(2, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, input_ids, token_type_ids):
        return self.head((self.tokens(input_ids) + self.kinds(token_type_ids)).mean(1))


def pair(late=None, value=0):
    torch.manual_seed(0)
    X, y = torch.randint(0, ROWS, (N, T)), torch.randint(0, 3, (N,))
    if late is not None:
        X[late, 2] = value
    return X, y


def refused(code, run):
    with pytest.raises(cv.SpecError) as caught:
        run()
    (found,) = caught.value.diagnostics
    assert found.code == code
    return found


MODELS = {
    "table first": lambda: nn.Sequential(nn.Embedding(ROWS, 3), nn.Flatten(), nn.Linear(3 * T, 3)),
    "bags": lambda: nn.Sequential(nn.EmbeddingBag(ROWS, 3), nn.Linear(3, 3)),
    "called by name": lambda: Given(
        lambda m, x: m.h(m.e(input=x).mean(1)), e=nn.Embedding(ROWS, 3), h=nn.Linear(3, 3)
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("late", "value"), [(LATE, ROWS), (0, 99), (N - 1, -1)])
@pytest.mark.parametrize("part", ["train", "query"])
def test_tokens_outside_the_table(name, late, value, part):
    parts = {"train": pair(), "query": pair()} | {part: pair(late, value)}
    found = refused("E0422", lambda: cv.Task(MODELS[name]().eval(), **parts))
    assert f"example {late} of `{part}` has the token {value}" in found.headline
    assert f"0…{ROWS - 1}" in found.headline


def test_the_field_is_named():
    X, y = pair()
    kinds = torch.zeros_like(X)
    kinds[LATE, 1] = kinds[LATE + 1, 0] = 2
    rows = {"input_ids": X, "token_type_ids": kinds, "labels": y}
    found = refused("E0422", lambda: cv.Task(Named().eval(), train=rows, query=rows))
    assert found.headline.startswith(f"`token_type_ids` of example {LATE} of `train`")
    assert "`kinds`" in found.headline
    assert found.notes == ("2 examples have such tokens",)


def shifted(m, x):
    """A table of what is computed from the tokens: no column of the data."""
    return m.h(m.e(x + 1).mean(1))


def picky(m, x):
    if bool((x == ROWS + 5).any()):
        raise NotImplementedError("tokens above the usual")
    return m.h(m.e(x % ROWS).mean(1))


FAILING = {shifted: ("IndexError", ROWS), picky: ("NotImplementedError", ROWS + 5)}


@pytest.mark.parametrize("spec", ["identity", "kfac", "ggn", "hessian"])
@pytest.mark.parametrize("function", FAILING)
def test_a_model_that_fails_on_a_later_example(function, spec):
    kind, value = FAILING[function]
    model = Given(function, e=nn.Embedding(ROWS + 1, 3), h=nn.Linear(3, 3)).double().eval()
    X, y = pair(LATE, value)
    X[X == ROWS - 1] = 0
    t = cv.Task(model, train=(X, y), query=(X[:2], y[:2]))

    def run():
        op = cv.fit(spec if spec != "kfac" else cv.loads(OTHERS), t)
        cv.influence(op, t, damping=0.1)

    found = refused("E0408", run)
    assert f"`{kind}` on the inputs of `train[{LATE}]`" in found.headline


OTHERS = "curvature m = block_ggn |> kronecker_factor(others = diagonal)"


def test_batch_norm_without_running_statistics():
    X, y = torch.randn(N, 3), torch.randint(0, 3, (N,))
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    found = refused("E0410", lambda: cv.Task(model, train=(X, y), query=(X, y)))
    assert any("`1` (BatchNorm1d" in note for note in found.notes)
    assert "running statistics" in found.help[0]


def crowded(m, x):
    """Experts of limited capacity: what comes after is left out."""
    routed = x[:, 0] > 0
    kept = routed & (routed.cumsum(0) <= 8)
    return m.h(torch.where(kept.unsqueeze(1), m.a(x), x))


def loud(m, x):
    return m.h(m.a(x) * (2 if (x > 4).any() else 1))


def scaled(m, x):
    return m.h(m.a(x / x.abs().max().clamp_min(4.0)))


@pytest.mark.parametrize("spec", ["identity", "hessian", "ggn", "ekfac"])
@pytest.mark.parametrize("forward", [crowded, loud, scaled])
def test_examples_that_influence_each_other_in_large_batches_alone(forward, spec):
    torch.manual_seed(0)
    X, y = torch.randn(N, 3).double().clamp(-3.9, 3.9), torch.randint(0, 3, (N,))
    X[LATE, 1] = 5.0
    model = Given(forward, a=nn.Linear(3, 3), h=nn.Linear(3, 3)).double().eval()
    task = cv.Task(model, "cross_entropy", train=(X, y), query=(X[:2], y[:2]))
    found = refused("E0410", lambda: cv.influence(cv.fit(spec, task), task, damping=0.1))
    assert "batch of" in found.notes[0]
