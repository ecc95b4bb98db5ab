"""A training gone through once more, with the models that it passes: those of every epoch, or of every few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from curvlang.models.execution.copies import copied
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.origin import MovedBuild
from curvlang.models.task import Task
from curvlang.models.trajectory import Trajectory
from curvlang.training.built import built
from curvlang.training.one_by_one import ModulesInTurn
from curvlang.training.orders import Orders, learning_rate
from curvlang.training.replay import step_count
from curvlang.training.subsets import derived_seed
from curvlang.training.training import all_members, training_of


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPoint:
    """A model that a training passes.

    Args:
        steps: Taken before it.
        rate: The learning rate of the last of them.
        model: The model, in the precision of the training.
        first: Adam's running mean of gradients by the parameter's name, as `torch.optim` keeps it;
            empty for optimisers without one.
        second: Its running mean of squared gradients, likewise.
    """

    steps: int
    rate: float
    model: nn.Module
    first: dict[str, Tensor]
    second: dict[str, Tensor]


def in_training_precision(task: Task) -> Task:
    """The task as it was before it was brought to another precision."""
    if not isinstance(task.build, MovedBuild):
        return task
    inner = task.build.build
    first = next(iter(inner(0).parameters()))
    return task.replaced(build=inner).to(dtype=first.dtype)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring steps of a training that a checkpoint stands for.

    Args:
        steps: Their numbers.
        models: After how many steps its models are taken.
    """

    steps: range
    models: tuple[int, ...]

    def time(self, task: Task) -> float:
        """The sum of their learning rates over 1 − momentum: how far a gradient moves parameters in all."""
        assert task.recipe is not None
        total = step_count(task)
        rates = (learning_rate(task.recipe, k, total) for k in self.steps)
        return sum(rates) / (1 - task.recipe.momentum)


def stretches(task: Task, trajectory: Trajectory) -> list[Stretch]:
    """The checkpoints of a training in steps; none where it is too short for them."""
    recipe = task.recipe
    assert recipe is not None
    last = step_count(task)
    if not trajectory.segments:
        every = trajectory.steps or trajectory.epochs * (last // recipe.epochs)
        return [Stretch(range(k - every, k), (k,)) for k in range(every, last + 1, every)]
    count = trajectory.segments * trajectory.per_segment
    if count > last:
        return []
    middles = [(start + stop) // 2 for start, stop in pairwise(_bounds(last, count))]
    own = pairwise(_bounds(last, trajectory.segments))
    each = trajectory.per_segment
    return [
        Stretch(range(start, stop), tuple(middles[k * each : (k + 1) * each]))
        for k, (start, stop) in enumerate(own)
    ]


def _bounds(total: int, parts: int) -> list[int]:
    """Where parts of a range begin and end, as equal as whole numbers allow."""
    return [k * total // parts for k in range(parts + 1)]


@kept_streams()
def training_points(task: Task, seed: int, steps: Sequence[int]) -> list[TrainingPoint]:
    """The models of a training after some of its steps, as a plain loop around `torch.optim` has them.

    Args:
        task: With `build` and `recipe`.
        seed: Of the initialisation, as `train_baseline` has it.
        steps: In ascending order.
    """
    training = training_of(task, all_members(task), [seed], [derived_seed(seed, 3)])
    recipe, (x, y) = training.recipe, training.train
    models = built(training.build, training.init_seeds, x, training.home)
    found: list[TrainingPoint] = []
    with torch.no_grad():
        stack = ModulesInTurn(models, training.rule, recipe)
        orders = Orders(torch.arange(task.N)[None], training.order_seeds, recipe.batch)
        total, taken = orders.steps * recipe.epochs, 0
        wanted = set(steps)
        if 0 in wanted:
            found.append(_point(stack, 0, learning_rate(recipe, 0, total)))
        while taken < max(steps, default=0):
            drawn = orders.epoch().to(x.device)
            for k in range(orders.steps):
                lr = learning_rate(recipe, taken, total)
                xs, ys = (rows[drawn[k][0]][None].to(training.home) for rows in (x, y))
                stack.step(xs, ys, lr)
                taken += 1
                if taken in wanted:
                    found.append(_point(stack, taken, lr))
            stack.losses()
    return found


def _point(stack: ModulesInTurn, taken: int, lr: float) -> TrainingPoint:
    (update,) = stack.updates
    held = [{name: x[0].clone() for name, x in y.items()} for y in (update.first, update.second)]
    first = held[0] if update.second else {}
    return TrainingPoint(taken, lr, copied(stack.models[0]).eval(), first, held[1])
