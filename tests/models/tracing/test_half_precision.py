"""Models in half precision: every spec as on the same parameters in float64, but for the model's rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.plan import Limits
from curvlang.language.checking.shipped import shipped
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import blocks
from curvlang.models.tracing.half_precision import exact_leaves
from curvlang.models.tracing.leaves import LeafRequest
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.prepare import prepare
from tests.models.language_model import batches, gpt2
from tests.oracles import dense

HALF = (torch.bfloat16, torch.float16)
SPECS = [x.name for x in shipped() if x.kind == "curvature" and not x.name.endswith("_by_head")]
"""The models below have no layer of attention, whose heads the others are by."""
ROUNDINGS = 2
"""Units of rounding of the half precision by which a matrix or scores may be off, relative to their norm."""


def kind_name(kind):
    return str(kind).removeprefix("torch.")


def pair(kind, build=None, X=None, loss="cross_entropy", y=None):
    """A task in half precision, and the same parameters and inputs in float64."""
    torch.manual_seed(0)
    half = (build or perceptron)().eval().to(kind)
    exact = (build or perceptron)().eval().double()
    exact.load_state_dict({k: v.double() for k, v in half.state_dict().items()})
    g = torch.Generator().manual_seed(1)
    X = torch.randn(24, 5, generator=g) if X is None else X
    X = X.to(kind)
    y = torch.randint(0, 3, (len(X),), generator=g) if y is None else y
    found = []
    for model, dtype in ((half, kind), (exact, torch.float64)):
        x = X.to(dtype)
        target = y.to(dtype) if y.is_floating_point() else y
        found.append(Task(model, loss, (x, target), (x[:3], target[:3])))
    return found


def perceptron():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, stride=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def off(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", HALF, ids=kind_name)
@pytest.mark.parametrize("spec", SPECS)
def test_every_spec_is_that_of_the_same_parameters(spec, kind):
    half, exact = pair(kind)
    found, wanted = cv.fit(spec, half), cv.fit(spec, exact)
    limit = ROUNDINGS * torch.finfo(kind).eps
    assert off(found.dense(), wanted.dense()) < limit
    # Above the negative eigenvalues of a Hessian, near which an inverse magnifies any rounding.
    damping = 0.1 + max(0.0, -float(wanted.eigenvalues().min()))
    scores = cv.influence(found, half, damping=damping)
    assert scores.dtype in (torch.float32, torch.float64)
    assert off(scores, cv.influence(wanted, exact, damping=damping)) < limit
    own = cv.self_influence(found, half, damping=damping)
    assert off(own, cv.self_influence(wanted, exact, damping=damping)) < limit


def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 3)
    )


@pytest.mark.parametrize("kind", HALF, ids=kind_name)
@pytest.mark.parametrize("build", [convolutional, depthwise])
@pytest.mark.parametrize("spec", ["kfac", "ekfac", "kfac_reduce", "shampoo", "per_output"])
def test_convolutions(spec, build, kind):
    shape = (1, 6, 6) if build is convolutional else (3, 4, 4)
    X = torch.randn(12, *shape, generator=torch.Generator().manual_seed(0))
    half, exact = pair(kind, build, X)
    found, wanted = cv.fit(spec, half), cv.fit(spec, exact)
    assert off(found.dense(), wanted.dense()) < ROUNDINGS * torch.finfo(kind).eps
    own, plain = (cv.self_influence(*x, damping=0.1) for x in ((found, half), (wanted, exact)))
    assert off(own, plain) < ROUNDINGS * torch.finfo(kind).eps


def test_squares_beyond_the_range_of_float16():
    """Inputs of about 300: their squares are infinite in float16."""

    def build():
        model = perceptron()
        with torch.no_grad():
            model[0].weight.div_(300)
        return model

    X = 300 * torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
    half, exact = pair(torch.float16, build, X)
    assert float(X.square().max()) > torch.finfo(torch.float16).max
    for spec in ("kfac", "ekfac", "diagonal", "ggn"):
        assert off(cv.fit(spec, half).dense(), cv.fit(spec, exact).dense()) < 0.01


def test_gradients_below_the_range_of_float16():
    """Sure predictions, and small weights above a layer: its gradients, 1e-8, are zero in float16."""

    def build():
        model = perceptron()
        with torch.no_grad():
            model[2].weight.div_(1000)
            model[2].bias.copy_(torch.tensor([10.0, 0.0, 0.0]))
        return model

    half, exact = pair(torch.float16, build, y=torch.zeros(24, dtype=torch.int64))
    X, y = half.train
    loss = nn.functional.cross_entropy(half.model(X), y, reduction="sum")
    (plain,) = torch.autograd.grad(loss, [half.model[0].weight])
    assert not plain.any()
    for spec in ("ekfac_empirical", "ekfac", "kfac", "block_ggn"):
        found, wanted = (cv.fit(spec, t).blocks["0"].dense() for t in (half, exact))
        assert 0 < float(wanted.abs().max()) < 1e-9
        assert off(found, wanted) < 0.01


@pytest.mark.parametrize("kind", HALF, ids=kind_name)
def test_gradients_are_those_of_the_model_itself(kind):
    """Against plain autograd through the half model, which rounds the product of a and g once."""
    half, _ = pair(kind)
    scores = cv.influence(cv.fit("identity", half), half, damping=0.0)
    grads = [
        dense.per_example_gradients(half.model, half.loss.name, *part).double()
        for part in (half.query, half.train)
    ]
    assert off(scores, grads[0] @ grads[1].T) < torch.finfo(kind).eps


@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_other_losses(loss):
    y = torch.rand(24, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    half, exact = pair(torch.bfloat16, loss=loss, y=y)
    for spec in ("ekfac", "ekfac_mc", "hessian"):
        found, wanted = cv.fit(spec, half), cv.fit(spec, exact)
        assert off(found.dense(), wanted.dense()) < ROUNDINGS * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("spec", ["hessian", "ggn"])
def test_products_with_matrices_that_are_not_formed(spec):
    half, exact = pair(torch.bfloat16)
    found, wanted = (
        fit_chains([_chain(spec)], t, last=True, limits=Limits(dense=1))[0][-1].operator
        for t in (half, exact)
    )
    assert found.structure == wanted.structure == "MatrixFree"
    assert found.dtype == torch.float32
    v = torch.randn(half.P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert off(found @ v.float(), wanted @ v) < 1e-5


def _chain(spec):
    from curvlang.facade import as_spec, chosen

    return chosen(as_spec(spec), None)


def test_layers_with_one_input_share_it():
    """What is computed once in full precision is computed once in half."""
    model = nn.ModuleDict({"q": nn.Linear(4, 3), "k": nn.Linear(4, 3)}).to(torch.bfloat16)

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return self.parts["q"](x) + self.parts["k"](x).tanh()

    X = torch.randn(6, 4).to(torch.bfloat16)
    y = torch.zeros(6, dtype=torch.int64)
    t = Task(Sum(), "cross_entropy", (X, y), (X, y))
    found = blocks(t.model, t.few)
    given = exact_leaves(t.model, t.loss, X, y, found, LeafRequest({"a", "g"}))
    inputs = [given[b.name]["a"] for b in found]
    assert inputs[0] is inputs[1]
    assert inputs[0].dtype == torch.float32
    assert prepare([_chain("kfac")], t).blocks[Partition.LAYER][1].shares


@pytest.mark.parametrize("kind", HALF, ids=kind_name)
def test_language_models(kind):
    from copy import deepcopy

    half = gpt2(0).to(kind)
    data = batches()
    query = {name: x[:3] for name, x in data.items()}
    tasks = [
        Task(model, "cross_entropy", data, query, shift_labels=True)
        for model in (half, deepcopy(half).double())
    ]
    spec = cv.loads(
        "curvature mine = block_ggn |> kronecker_factor(others = diagonal) |> eigen_correct"
    )
    found, wanted = (cv.fit(spec, t) for t in tasks)
    limit = ROUNDINGS * torch.finfo(kind).eps
    assert off(found.dense(), wanted.dense()) < limit
    whole = cv.influence(found, tasks[0], damping=0.1)
    assert off(whole, cv.influence(wanted, tasks[1], damping=0.1)) < limit
    parts = cv.influence(found, tasks[0], damping=0.1, per_position=True)
    assert off(parts.sum(2), whole.double()) < limit


def test_a_fit_in_another_precision():
    """The passes run in it; the task stays as it is, and scores are taken in its own."""
    _, task = pair(torch.bfloat16)
    exact, found = cv.fit("ekfac", task), cv.fit("ekfac", task, dtype=torch.float32)
    assert 0 < off(found.dense(), exact.dense()) < 1e-5
    assert task.dtype == torch.float64
    assert off(cv.influence(found, task), cv.influence(exact, task)) < 1e-5
    free = cv.fit("ekfac", task, dtype=torch.bfloat16)
    assert off(free.dense(), exact.dense()) < ROUNDINGS * torch.finfo(torch.bfloat16).eps
