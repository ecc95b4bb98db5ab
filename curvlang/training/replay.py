"""A training gone through again, step by step: the one that `train_baseline` makes, for one model.

The gradients are of plain losses at plain parameters, so that callers may differentiate them again;
order, learning rates and update are those of the retraining engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution.substitution import functional_call
from curvlang.models.recipe import Recipe
from curvlang.models.sources.transfers import moved
from curvlang.models.task import Task
from curvlang.training.orders import Orders, learning_rate, steps_per_epoch
from curvlang.training.subsets import derived_seed

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step of the training.

    Args:
        theta: Where it was taken from.
        rows: The examples it drew.
        lr: Its learning rate.
        after: Where it led to.
    """

    theta: State
    rows: Tensor
    lr: float
    after: State


def check_followed(name: str, recipe: Recipe) -> None:
    """Refuse recipes whose steps are not those of heavy-ball SGD, or of which there are none.

    Raises:
        SpecError: E0509.
    """
    if recipe.optimiser != "sgd" or recipe.nesterov or recipe.clip:
        raise not_followed(
            name,
            "that is not plain SGD, with or without heavy-ball momentum",
            "leave it out, or train with `sgd(lr = …, momentum = …)` without clipping",
        )
    if not recipe.epochs:
        raise not_followed(name, "there is none (`epochs = 0`)", "train for an epoch or more")


def not_followed(name: str, why: str, repair: str) -> SpecError:
    """The refusal of a method that goes through the training again, where it cannot."""
    return refusal(Code.E0509, f"`{name}` follows the training, and {why}", repair)


def step_count(task: Task) -> int:
    """Steps of the whole training."""
    assert task.recipe is not None
    return steps_per_epoch(task.N, task.recipe.batch) * task.recipe.epochs


def rates(task: Task) -> list[float]:
    """Learning rates of all steps."""
    assert task.recipe is not None
    total = step_count(task)
    return [learning_rate(task.recipe, number, total) for number in range(total)]


def followed(task: Task, model: nn.Module, seed: int) -> Iterator[Step]:
    """The steps as they were taken.

    Args:
        task: With a recipe of SGD, its data on the model's device.
        model: Freshly built with the seed; its parameters stay as they are.
        seed: Of the model's initialisation, as `train_baseline` has it.
    """
    recipe = task.recipe
    assert recipe is not None
    theta = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    speed = {name: torch.zeros_like(p) for name, p in theta.items()}
    slope = grad(lambda point, rows: losses_at(task, model, point, rows).mean())
    for drawn, lr in zip(_minibatches(task, recipe, seed), rates(task), strict=True):
        rows = moved(drawn, task.device)
        gradient = slope(theta, rows)
        speed = {n: recipe.momentum * speed[n] + gradient[n] + recipe.l2 * theta[n] for n in theta}
        after = {n: theta[n] - lr * speed[n] for n in theta}
        yield Step(theta, rows, lr, after)
        theta = after


def losses_at(task: Task, model: nn.Module, theta: State, rows: Tensor) -> Tensor:
    """Losses of training examples, [B]."""
    x, y = (moved(part[rows], task.device) for part in task.train)
    return task.loss.per_example(functional_call(model, theta, (x,)), y)


def _minibatches(task: Task, recipe: Recipe, seed: int) -> Iterator[Tensor]:
    orders = Orders(torch.arange(task.N)[None], [derived_seed(seed, 3)], recipe.batch)
    for _ in range(recipe.epochs):
        yield from orders.epoch()[:, 0]
