"""Small models, tasks, specs and fitted operators, in float64.

Tasks are drawn from the space that conditions leave, in the words that a law uses:
`tasks("examples > 1 and loss is mse")`. Nothing is filtered, so every draw is of use.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from curvlang.language import load, loads
from curvlang.language.chain import Chain, Space, Spec, TaskSpec
from curvlang.language.checking.conditions import everything
from curvlang.language.partition import partition_of_chain
from curvlang.language.syntax.files import shipped_files
from curvlang.models.architectures.mlp import mlp
from curvlang.models.task import Task
from curvlang.runtime.fitted import FittedOperator
from curvlang.testing.draws import built
from curvlang.testing.draws import task_specs as specs_within
from curvlang.testing.hypothesis_package import strategies as st
from curvlang.testing.measure import fitted


@st.composite
def models(draw: st.DrawFn, inputs: int = 3, outputs: int = 3) -> nn.Sequential:
    """Perceptrons with up to two hidden layers of up to four units.

    Shrinks to no hidden layer, one unit, `identity`, no bias, seed 0.
    """
    hidden = draw(st.lists(st.integers(1, 4), max_size=2))
    activation = draw(st.sampled_from(everything().activations))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return mlp([inputs, *hidden, outputs], activation, draw(st.booleans()), generator).double()


@functools.cache
def space_of(where: str) -> Space:
    """The space that conditions leave, as `when …` of a law states them.

    Raises:
        SpecError: For an unknown condition, and where no task is left.
    """
    if not where:
        return everything()
    (law,) = loads(f"law hessian is symmetric when {where}", "<where>").laws
    return law.space


def task_specs(where: str = "") -> st.SearchStrategy[TaskSpec]:
    """Descriptions of tasks, which `task_notation` prints as a spec writes them.

    Shrinks to one example with one input and one output, one layer, `identity`, `mse`, no bias,
    positions kept, seed 0: each as far as the conditions allow.
    """
    return specs_within(space_of(where))


def tasks(where: str = "") -> st.SearchStrategy[Task]:
    """Tasks of a small model on drawn data, in float64; shrinks as `task_specs` does."""
    return task_specs(where).map(built)


@functools.cache
def semidefinite_specs() -> tuple[Spec, ...]:
    """Shipped specs that are positive semidefinite on every task: shortest chain first.

    Such a chain drops the residual, or ends in a formula that needs nothing of the model. Blocks by head are
    left out: the drawn models have no layer of attention.
    """
    found = []
    for name in shipped_files():
        for curvature in load(name).curvatures.values():
            stages = curvature.stages if isinstance(curvature, Chain) else ()
            if isinstance(curvature, Chain) and partition_of_chain(curvature).kind == "head":
                continue
            if any(s.name == "drop_residual" or (s.body and not s.needs) for s in stages):
                found.append((len(stages), load(name)))
    return tuple(spec for _, spec in sorted(found, key=lambda pair: pair[0]))


def specs() -> st.SearchStrategy[Spec]:
    """Shipped positive semidefinite specs; shrinks towards the shortest chain."""
    return st.deferred(lambda: st.sampled_from(semidefinite_specs()))


@st.composite
def operators(draw: st.DrawFn, where: str = "") -> FittedOperator:
    """A shipped spec fitted on a small task; shrinks as `specs` and `tasks` do."""
    curvature = next(reversed(list(draw(specs()).curvatures.values())))
    task = draw(tasks(where))
    return FittedOperator(fitted(curvature, task), task.parameters, None, curvature.name)
