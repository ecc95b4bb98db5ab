"""Models that `fully_shard` has cut over processes are fitted and scored as the same models in one piece."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import curvlang as cv
from curvlang.compiler.planning import chunks
from curvlang.diagnostics.diagnostic import CurvlangError
from curvlang.models.execution.sharded import whole
from tests.processes import together

LIMIT = 180.0
"""Seconds for some fits on a busy machine."""


class Words(nn.Module):
    """Tied embeddings, a frozen part, a buffer, a list of layers, and a hook that reads the model."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 5)
        self.layers = nn.ModuleList(nn.Linear(5, 5, bias=k > 0) for k in range(2))
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.words.weight
        self.scale = nn.Parameter(torch.full((5,), 1.5), requires_grad=False)
        self.register_buffer("shift", torch.ones(5))
        self.head.register_forward_hook(lambda module, given, output: output * self.shift.sum())

    def forward(self, x):
        h = self.words(x)
        for layer in self.layers:
            h = torch.tanh(layer(h)) * self.scale
        return self.head(h)


def perceptron():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    X = torch.randn(37, 3, dtype=torch.float64)
    return model, (X, torch.arange(37) % 3)


def words():
    torch.manual_seed(0)
    return Words().double().eval(), tuple(torch.randint(0, 7, (2, 12, 4)))


MODELS = {"perceptron": perceptron, "words": words}
SPECS = {"perceptron": ("kfac", "ekfac", "hessian"), "words": ("ekfac_lm",)}


def cut(model, parts):
    """The model in the parts of two processes: some of its modules by themselves, then the rest."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    if size > 1:
        mesh = dist.init_device_mesh("cpu", (size,))
        for part in parts(model):
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def layers(model):
    return [m for m in model.modules() if type(m) is nn.Linear and m.bias is not None]


def scored(name, ran=False):
    """Fingerprint, curvatures and scores of a model that is cut where there are processes."""
    chunks.ROWS, chunks.LONG_ROWS, chunks.WORK, chunks.PRODUCT_WORK = 4, 4, 1, 1
    model, (X, y) = MODELS[name]()
    cut(model, layers)
    if ran:
        model(X[:2])
    t = cv.Task(model, "cross_entropy", (X, y), (X[:3], y[:3]))
    found = {"fingerprint": t.fingerprint()}
    for spec in SPECS[name]:
        op = cv.fit(spec, t, progress=False)
        found[spec] = op.dense()
        found[f"{spec}, scores"] = cv.influence(op, t, damping=5.0, progress=False)
    # The model itself is as it was.
    found["outputs"] = model(X[:3]).detach()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_cut_models_have_the_scores_of_whole_ones(name):
    (wanted,) = together(scored, 1, name, limit=LIMIT)
    for ran in (False, True):
        for found in together(scored, 2, name, ran, limit=LIMIT):
            different = [
                k for k, x in wanted.items()
                if not (torch.equal(found[k], x) if isinstance(x, torch.Tensor) else found[k] == x)
            ]  # fmt: skip
            assert different == []


def copies():
    """What a whole copy is made of."""
    model, _ = words()
    plain = {k: x.clone() for k, x in model.state_dict().items()}
    kinds = [type(m) for m in model.modules()]
    made = whole(cut(model, layers))
    return [
        all(torch.equal(x, plain[k]) for k, x in made.state_dict().items()),
        [type(m) for m in made.modules()] == kinds,
        made.head.weight is made.words.weight,
        not made.scale.requires_grad,
        [len(m._forward_hooks) for m in made.modules() if m is not made.head] == [0] * 5,
        made is not model,
    ]


def test_a_whole_copy_is_the_model_that_was_cut():
    assert together(copies, 2) == [[True] * 6] * 2


def refused(kind):
    """The codes that a model is refused with whose parts are not of `fully_shard`."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("examples", "layers"))
        model, (X, y) = perceptron()
        parallelize_module(model, mesh["layers"], {"0": ColwiseParallel()})
        if kind == "both":
            fully_shard(model, mesh=mesh["examples"])
        with pytest.raises(CurvlangError) as found:
            cv.Task(model, "cross_entropy", (X, y), (X, y))
        return [str(d.code) for d in found.value.diagnostics]
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["tensor", "both"])
def test_layers_that_are_cut_themselves_are_refused(kind):
    assert refused(kind) == ["E0839"]
