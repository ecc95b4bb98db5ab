"""What is not finite is refused by the example that it comes from, before results are given."""

import math

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.diagnostics.diagnostic import SpecError

N, Q, D = 30, 6, 3
"""So many that the examples that a task is checked with leave some out."""
LAST = 13
"""An example, and a query below Q, that the checks of a task do not look at."""
SPECS = ("identity", "hessian", "ggn", "kfac", "ekfac", "empirical_fisher", "diagonal")


class Given(nn.Module):
    def __init__(self, function, outputs=3):
        super().__init__()
        self.function = function
        self.head = nn.Linear(D, outputs, bias=False)

    def forward(self, x):
        return self.function(self, x)


def task(function, *, train=None, query=None, value=0.0, outputs=3, loss="cross_entropy"):
    torch.manual_seed(0)
    X, y = torch.randn(N, D).double(), torch.randint(0, 3, (N,))
    Xq, yq = torch.randn(Q, D).double(), torch.randint(0, 3, (Q,))
    for x, rows in ((X, train), (Xq, query)):
        if rows is not None:
            x[rows] = value
    return cv.Task(Given(function, outputs).double().eval(), loss, (X, y), (Xq, yq))


def unit(m, x):
    return m.head(x / x.norm(dim=1, keepdim=True))


def root(m, x):
    return m.head(x).abs().sqrt()


def refused(run, words, code="E0420"):
    with pytest.raises(SpecError) as caught:
        run()
    (found,) = caught.value.diagnostics
    assert found.code == code
    for word in words:
        assert word in " ".join((found.headline, *found.notes))


KINDS = {
    "outputs": (unit, "output is NaN"),
    "gradients": (root, "`head.weight` is NaN"),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_later_training_example(kind, spec):
    function, words = KINDS[kind]
    t = task(function, train=[LAST])

    def run():
        op = cv.fit(spec, t)
        cv.influence(op, t, damping=0.1)

    refused(run, (f"example {LAST} of `train`", words))


@pytest.mark.parametrize("spec", ["identity", "kfac", "ggn"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_later_query(kind, spec):
    function, words = KINDS[kind]
    t = task(function, query=[1])
    op = cv.fit(spec, t)
    refused(lambda: cv.influence(op, t, damping=0.1), ("example 1 of `query`", words))
    refused(lambda: cv.self_influence(op, t, part="query", damping=0.1), ("1 of `query`", words))


@pytest.mark.parametrize("spec", ["identity", "ggn"])
def test_self_influence(spec):
    t, sound = task(unit, train=[LAST]), task(unit)
    op = cv.fit(spec, sound)
    refused(lambda: cv.self_influence(op, t, damping=0.1), (f"example {LAST} of `train`",))
    refused(lambda: cv.influence(op, t, damping=0.1), (f"example {LAST} of `train`",))


@pytest.mark.parametrize("kind", KINDS)
def test_coverage(kind):
    function, words = KINDS[kind]
    t = task(function, train=[LAST])
    refused(lambda: cv.coverage(t.model, t), (f"example {LAST} of `train`", words))


def test_all_of_them_are_named():
    t = task(unit, train=[5, 6, LAST])
    refused(lambda: cv.fit("kfac", t), ("example 5 of `train`", "2 others: 6, 13"))
    refused(lambda: task(unit, train=slice(None)), ("example 0 of `train`", "every example"))


@pytest.mark.parametrize("row", [0, N - 1])
def test_examples_that_the_task_is_checked_with(row):
    refused(
        lambda: task(unit, train=[row]),
        (f"example {row} of `train`", "output is NaN"),
    )
    refused(lambda: task(root, train=[row]), (f"example {row} of `train`", "gradient of its loss"))


def masked(m, x):
    return m.head(x).masked_fill(torch.arange(4) == 3, -math.inf)


@pytest.mark.parametrize("spec", SPECS)
def test_classes_that_are_masked_out_change_nothing(spec):
    """Outputs of −∞ where they are never the label: as if there were no such class."""
    t = task(masked, outputs=4)
    plain = task(lambda m, x: m.head(x)[:, :3], outputs=4)
    plain.model.head.weight.data.copy_(t.model.head.weight.data)
    for found, wanted in zip(*(results(spec, x) for x in (t, plain)), strict=True):
        assert torch.equal(found, wanted)


def results(spec, t):
    op = cv.fit(spec, t)
    return op.dense(), cv.influence(op, t, damping=0.3), cv.self_influence(op, t, damping=0.3)


def test_a_label_that_is_masked_out_is_refused():
    def hidden(m, x):
        return m.head(x).masked_fill(x[:, :1] == 7, -math.inf)

    t = task(hidden, train=[LAST], value=7.0)
    refused(lambda: cv.fit("kfac", t), (f"example {LAST} of `train`", "output is"))


def test_second_derivatives():
    """x^1.5 has a gradient at zero, and no second derivative."""

    def power(m, x):
        return m.head(x).abs() ** 1.5

    t = task(power, train=[LAST])
    words = (f"example {LAST} of `train`", "second derivatives")
    refused(lambda: cv.fit("hessian", t), words, "E0793")
    assert bool(torch.isfinite(cv.fit("ggn", t).dense()).all())


def test_buffers():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    model[1].running_var.fill_(torch.nan)
    X, y = torch.randn(8, 3), torch.zeros(8).long()
    with pytest.raises(SpecError, match=r"E0406.*buffer `1.running_var`"):
        cv.Task(model, train=(X, y), query=(X, y))


FORMULAS = {
    "A[i,i'] / (trace(A) - trace(A))": "the block `head`",
    "log(A[i,i'] - 100)": "the block `head`",
    "mean[n,t] log(a[n,t,i] * a[n,t,i'] - 100)": "a sum over the examples in the block `head`",
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_that_is_not_finite(formula):
    spec = cv.loads(
        "transform odd { needs a[n,t,i]\n A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\n"
        f" B[i,i'] = {formula}\n yield C[o,i,o',i'] = identity[o,o'] * B[i,i'] }}\n"
        "curvature mine = block_ggn |> odd"
    )
    with pytest.raises(SpecError) as caught:
        cv.fit(spec, task(lambda m, x: m.head(x)))
    (found,) = caught.value.diagnostics
    assert found.code == "E0421"
    assert FORMULAS[formula] in found.headline
    assert found.labels[0].span.text == "odd"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("curvature x = 1e308 * identity + 1e308 * identity", False),
        ("curvature x = 1e100 * kfac + 1e100 * kfac", True),
        (
            "transform mine {\n needs A[i,i'], G[o,o']\n B[i,i'] = A[i,i'] * 1e150\n"
            " D[o,o'] = G[o,o'] * exp(400)\n yield C[o,i,o',i'] = D[o,o'] * B[i,i']\n}\n"
            "curvature x = kfac |> mine",
            False,
        ),
    ],
)
def test_multiples_too_large_to_add_up(text, fits):
    given = task(unit)
    if fits:
        assert math.isfinite(float(cv.fit(cv.loads(text), given).trace()))
        return
    with pytest.raises(SpecError) as caught:
        cv.fit(cv.loads(text), given)
    assert caught.value.diagnostics[0].code in ("E0421", "E0423")
