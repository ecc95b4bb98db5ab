"""Small models, tasks, specs and fitted operators, in float64."""

from __future__ import annotations

import functools

import torch
from hypothesis import strategies as st
from torch import nn

from curvlang.facade import fit
from curvlang.language import load
from curvlang.language.chain import Chain, Spec
from curvlang.language.files import shipped_files
from curvlang.models.mlp import mlp
from curvlang.models.task import Task
from curvlang.runtime.fitted import FittedOperator

LOSSES = ("cross_entropy", "mse", "bce_with_logits")


@st.composite
def models(draw: st.DrawFn, inputs: int = 3, outputs: int = 3) -> nn.Sequential:
    """Perceptrons with up to two hidden layers of up to four units.

    Shrinks to no hidden layer, one unit, `identity`, no bias, seed 0.
    """
    hidden = draw(st.lists(st.integers(1, 4), max_size=2))
    activation = draw(st.sampled_from(["identity", "tanh", "relu", "sigmoid"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return mlp(inputs, outputs, hidden, activation, draw(st.booleans()), generator).double()


@st.composite
def tasks(draw: st.DrawFn, examples: int = 6) -> Task:
    """Tasks of a small model with one to `examples` examples; shrinks to one example."""
    model = draw(models())
    loss = draw(st.sampled_from(LOSSES))
    count = draw(st.integers(1, examples))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    y = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    labels = y.argmax(1) if loss == "cross_entropy" else y
    return Task(model, loss, (x, labels), (x[:1], labels[:1]))


@functools.cache
def semidefinite_specs() -> tuple[Spec, ...]:
    """Shipped specs that are positive semidefinite on every task: shortest chain first.

    Such a chain drops the residual, or ends in a formula that needs nothing of the model.
    """
    found = []
    for name in shipped_files():
        for curvature in load(name).curvatures.values():
            stages = curvature.stages if isinstance(curvature, Chain) else ()
            if any(s.name == "drop_residual" or (s.body and not s.needs) for s in stages):
                found.append((len(stages), load(name)))
    return tuple(spec for _, spec in sorted(found, key=lambda pair: pair[0]))


def specs() -> st.SearchStrategy[Spec]:
    """Shipped positive semidefinite specs; shrinks towards the shortest chain."""
    return st.deferred(lambda: st.sampled_from(semidefinite_specs()))


@st.composite
def operators(draw: st.DrawFn) -> FittedOperator:
    """A shipped spec fitted on a small task; shrinks as both do."""
    return fit(draw(specs()), draw(tasks()))
