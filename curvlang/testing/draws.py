"""Small tasks for laws: drawn from a space, each the meaning of a few words of the language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.language.chain import Law, Part, Space, TaskSpec, Value
from curvlang.language.checking.conditions import MOST, WIDTHS, drawn
from curvlang.language.partition import partition_of_chain
from curvlang.language.registry import LOSSES, MODELS, NONE, OPTIMISERS
from curvlang.language.sums import weighted_chains
from curvlang.models.builtin import task_from
from curvlang.models.task import Task
from curvlang.testing.hypothesis_package import strategies as st
from curvlang.training.baseline import train_baseline

SEEDS = range(1024)
"""Seeds of data and model that are drawn; 0 is the simplest."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """What the models of drawn tasks have, because a law's scores read it or its curvatures are by it.

    Args:
        heads: Of attention; 0 for perceptrons.
        checkpoints: Whether the task has checkpoints of a training.
        models: Whether it has models from several seeds.
        moments: Whether the training keeps Adam's running means.
    """

    heads: int = 0
    checkpoints: bool = False
    models: bool = False
    moments: bool = False

    @property
    def trained(self) -> bool:
        """Whether the model is trained; else it stays as it was initialised."""
        return self.checkpoints or self.models or self.moments


@dataclass(frozen=True, slots=True)
class Draw:
    """A task, and how its data is cut and ordered where a law is about that.

    Args:
        task: The task as the language says it.
        batch: Examples in a batch.
        order: A permutation of the examples.
    """

    task: TaskSpec
    batch: int
    order: tuple[int, ...]


def pick(draw: st.DrawFn, values: Sequence[T]) -> T:
    """One of the values, shrinking to the first.

    Drawn bit by bit: Hypothesis mixes constants of the modules that happen to be loaded into the
    integers that it draws, and a seed must find the same task in every program.
    """
    bits = max(0, len(values) - 1).bit_length()
    return values[sum(2**k * draw(st.booleans()) for k in reversed(range(bits))) % len(values)]


def needs_of(law: Law) -> ModelNeeds:
    """What the models of a law's tasks have."""
    programs = [program_of(q.score) for q in law.quantities if q.score is not None]
    return ModelNeeds(
        _heads(law),
        any(x.checkpoints for x in programs),
        any(x.models for x in programs),
        any(x.moments for x in programs),
    )


def _heads(law: Law) -> int:
    """Heads of attention that the law's curvatures are by; 0 where they are not."""
    chains = [chain for q in law.quantities for _, chain in weighted_chains(q.curvature)]
    partitions = [partition_of_chain(chain) for chain in chains]
    return max((x.count for x in partitions if x.kind == "head" and not x.of), default=0)


@st.composite
def task_specs(draw: st.DrawFn, space: Space, needs: ModelNeeds = ModelNeeds()) -> TaskSpec:
    """Task descriptions within a space.

    Shrinks to one example with one input and one output, one layer, `identity`, `mse`, no bias,
    positions kept, seed 0: each as far as the space has it.

    Args:
        draw: Of Hypothesis.
        space: What may be drawn.
        needs: What the model has.
    """
    space, heads = drawn(space), needs.heads
    positions = pick(draw, space.positions)
    pooling = pick(draw, space.pooling) if positions > 1 else space.pooling[0]
    layers = 1 if heads else pick(draw, space.layers)
    hidden = tuple(pick(draw, WIDTHS) for _ in range(layers - 1))
    data: Mapping[str, Value] = {
        "examples": pick(draw, space.examples),
        "inputs": pick(draw, space.inputs),
        "outputs": pick(draw, space.outputs),
        "positions": positions,
        "seed": pick(draw, SEEDS),
    }
    model: Mapping[str, Value] = {
        "hidden": hidden,
        "activation": pick(draw, space.activations) if hidden else space.activations[0],
        "bias": pick(draw, space.biases),
        "positions": pooling,
        "initialisation": MODELS["mlp"].defaults["initialisation"],
        "weights": NONE,
    }
    if heads:
        kept = {k: model[k] for k in ("bias", "positions", "weights")}
        model = {"heads": heads, "size": pick(draw, (1, 2)), **kept}
    found = described(data, model, pick(draw, space.losses))
    return draw(trainings(found, needs)) if needs.trained else found


@st.composite
def trainings(draw: st.DrawFn, task: TaskSpec, needs: ModelNeeds) -> TaskSpec:
    """The task with a short training, its checkpoints, and models of other seeds.

    Shrinks to one epoch of plain gradient descent on the whole data, or of Adam, and two models.
    """
    name = "adam" if needs.moments else pick(draw, ("sgd", "adam", "adamw"))
    given: Mapping[str, Value] = {
        "lr": 0.1 if name == "sgd" else 0.01,
        "epochs": pick(draw, (1, 2, 3)),
        "batch": pick(draw, (MOST["examples"], 2, 1)),
        "schedule": pick(draw, ("constant", "cosine")),
    }
    every = Part("every", {"epochs": 1, "steps": 0})
    return replace(
        task,
        train=Part(name, {**OPTIMISERS[name].defaults, **given}),
        checkpoints=every if needs.checkpoints else None,
        models=Part("trained", {"count": pick(draw, (2, 3))}) if needs.models else None,
    )


@st.composite
def draws(draw: st.DrawFn, space: Space, needs: ModelNeeds = ModelNeeds()) -> Draw:
    """Tasks with a batch size and an order; shrinks to single examples in their own order."""
    task = draw(task_specs(space, needs))
    count = int(str(task.data.arguments["examples"]))
    batch = pick(draw, range(1, max(1, count - 1) + 1))
    left, order = list(range(count)), []
    while left:
        order.append(left.pop(left.index(pick(draw, left))))
    return Draw(task, batch, tuple(order))


def described(
    data: Mapping[str, Value], model: Mapping[str, Value], loss: str, name: str = "counterexample"
) -> TaskSpec:
    """A task that is not trained: its model stays as the data's seed initialises it."""
    train = OPTIMISERS["sgd"].defaults
    return TaskSpec(
        name,
        {},
        Part("random", data),
        Part("attention" if "heads" in model else "mlp", model),
        Part(loss, LOSSES[loss].defaults),
        Part("sgd", {**train, "epochs": 0}),
    )


def built(spec: TaskSpec) -> Task:
    """The task in float64, its model initialised with the data's seed, trained if it says so."""
    seed = int(str(spec.data.arguments.get("seed", 0)))
    task = task_from(spec, seed=seed)
    if task.recipe is not None and task.recipe.epochs > 0:
        task = train_baseline(task, seed)
    return task.to(dtype=torch.float64)


def within(space: Space, task: TaskSpec) -> bool:
    """Whether a task meets the conditions that made a space."""
    data, model = task.data.arguments, task.model.arguments
    hidden = model.get("hidden", ())
    layers = 1 + (len(hidden) if isinstance(hidden, tuple) else 1)
    positions = data.get("positions", 1)
    return (
        data.get("examples", 0) in space.examples
        and positions in space.positions
        and data.get("inputs", 0) in space.inputs
        and data.get("outputs", 0) in space.outputs
        and layers in space.layers
        and (layers == 1 or model.get("activation") in space.activations)
        and model.get("bias") in space.biases
        and (positions == 1 or model.get("positions") in space.pooling)
        and task.loss.name in space.losses
    )
