"""What a training is made of: one value that the engines, the ground truth and the measures read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Pair, StoredRows
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.losses import loss_named
from curvlang.models.origin import Build
from curvlang.models.recipe import Recipe
from curvlang.models.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """M models to be trained, one for each row of `members`.

    Args:
        build: A fresh model for a seed.
        loss: A loss, or its name.
        train: Training examples `(X [N, …], y [N, …])`.
        query: Queries.
        members: `[M, N]` of bool: the subset of each model.
        recipe: How to train.
        init_seeds: Seed of each model's initialisation.
        order_seeds: Seed of each model's minibatches.
        metric: What the queries are asked for in place of their loss.
        device: Where models are trained; where the examples are, if None.
    """

    build: Build
    loss: str | Loss
    train: Pair
    query: Pair
    members: Tensor
    recipe: Recipe
    init_seeds: Sequence[int]
    order_seeds: Sequence[int]
    metric: Loss | None = None
    device: torch.device | None = None

    @property
    def home(self) -> torch.device:
        """Where models are trained."""
        return self.train[0].device if self.device is None else self.device

    @property
    def rule(self) -> Loss:
        """The loss."""
        return loss_named(self.loss)

    @property
    def asked(self) -> Loss:
        """What the queries are asked for."""
        return self.rule if self.metric is None else self.metric

    def rows(self, which: Tensor) -> Training:
        """Some of the models."""
        return replace(
            self,
            members=self.members[which],
            init_seeds=[self.init_seeds[k] for k in which.tolist()],
            order_seeds=[self.order_seeds[k] for k in which.tolist()],
        )


def training_of(
    task: Task,
    members: Tensor,
    init_seeds: Sequence[int],
    order_seeds: Sequence[int],
    metric: Loss | None = None,
) -> Training:
    """Models of a task trained by its recipe.

    Raises:
        SpecError: E0503 for a task without `build` or `recipe`.
    """
    check_trainable(task, "the evaluation")
    assert task.build is not None
    assert task.recipe is not None
    return Training(
        task.build,
        task.loss,
        task.train,
        task.query,
        members,
        task.recipe,
        init_seeds,
        order_seeds,
        metric,
        training_device(task),
    )


def training_device(task: Task) -> torch.device:
    """Where models of a task are trained: where its examples are, or, if they are stored, the model."""
    X = task.train[0]
    return task.device if isinstance(X, StoredRows) else X.device


def all_members(task: Task) -> Tensor:
    """One model that is trained on every example, `[1, N]`."""
    return torch.ones(1, task.N, dtype=torch.bool)


def check_trainable(task: Task, what: str, repair: str = "leave it out") -> None:
    """Refuse a task whose model cannot be made and trained.

    Args:
        task: The task.
        what: What retrains it, for the message.
        repair: What to do without it.

    Raises:
        SpecError: E0503.
    """
    lacks = [n for n, v in (("build", task.build), ("recipe", task.recipe)) if v is None]
    if lacks:
        raise refusal(
            Code.E0503,
            f"{what} retrains the model, and the task lacks {' and '.join(f'`{x}`' for x in lacks)}",
            "give `Task(…, build=make_model, recipe=Recipe(…))`, where `make_model(seed)` returns "
            f"a fresh model, or {repair}",
        )
