"""Retraining: all subset models at once, each with its own minibatches from its own subset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.models.data.rows import Rows, rows_at_once
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.loss import Loss
from curvlang.models.sources.transfers import moved
from curvlang.training.built import built
from curvlang.training.engines import Stack, engine
from curvlang.training.orders import Orders, learning_rate
from curvlang.training.stacked_mlp import StackedMLP
from curvlang.training.training import Training

DIVERGED = 100.0
"""Growth of the loss from the first minibatch to the last epoch from which a training counts as diverged."""

Progress = Callable[[int, int], None]

CHUNK = 125
"""Models trained in one stack: past this the weights and activations leave the caches."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModels:
    """M trained models, seen through the queries.

    Args:
        query_loss: `[M, Q]` loss of every query.
        curve: `[M, epochs]` mean minibatch loss of every epoch.
        diverged: `[M]` whether a loss was not finite, or ended a hundredfold above its start.
        parameters: Stacked parameters by name, where they were kept.
    """

    query_loss: Tensor
    curve: Tensor
    diverged: Tensor
    parameters: dict[str, Tensor] | None = None


@settled
def retrain(
    training: Training,
    *,
    keep_parameters: bool = False,
    progress: Progress | None = None,
    chunk: int = CHUNK,
    generic: bool = False,
) -> TrainedModels:
    """Train every model of a training.

    Args:
        training: The models, each with its subset and seeds.
        keep_parameters: Whether the trained parameters are returned.
        progress: Called with the steps done, in model-steps.
        chunk: Models in one stack.
        generic: Use the path for any module also where the faster one applies.

    Returns:
        Query losses, curves, and which models diverged; one model's numbers do not depend on
        which others are trained beside it, beyond rounding.
    """
    sizes = training.members.sum(1)
    epochs = training.recipe.epochs
    total, done = len(sizes) * epochs, 0
    parts: list[TrainedModels] = []
    order: list[Tensor] = []
    for size in sizes.unique().tolist():
        alike = (sizes == size).nonzero()[:, 0]
        for rows in alike.split(chunk):
            told = None if progress is None else _offset(progress, done, total, len(rows))
            stack = _Stack.of(training.rows(rows), generic)
            parts.append(stack.trained(told, keep_parameters))
            order.append(rows)
            done += len(rows) * epochs
    return _in_order(parts, torch.cat(order))


def _offset(progress: Progress, done: int, total: int, models: int) -> Callable[[int], None]:
    return lambda epoch: progress(done + epoch * models, total)


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """Models with subsets of one size, trained at once."""

    training: Training
    engine: Stack
    names: Sequence[str]
    dtype: torch.dtype

    @classmethod
    def of(cls, training: Training, generic: bool) -> _Stack:
        models = built(training.build, training.init_seeds, training.train[0], training.home)
        trained = {n: p for n, p in models[0].named_parameters() if p.requires_grad}
        with torch.no_grad():
            found = engine(models, training, generic=generic)
        return cls(training, found, tuple(trained), next(iter(trained.values())).dtype)

    def trained(self, told: Callable[[int], None] | None, keep_parameters: bool) -> TrainedModels:
        # Inference mode saves a twentieth of the time; `torch.func` does not run under it.
        fast = isinstance(self.engine, StackedMLP)
        with torch.inference_mode() if fast else torch.no_grad():
            curve, start = self._epochs(told)
            query_loss = _query_losses(self.engine, self.training)
            diverged = ~(torch.isfinite(curve).all(1) & torch.isfinite(query_loss).all(1))
            if start is not None:
                diverged |= curve[:, -1] > DIVERGED * start
            kept = self.engine.parameters(self.names) if keep_parameters else None
        parameters = None if kept is None else {n: p.clone() for n, p in kept.items()}
        return TrainedModels(query_loss.clone(), curve.clone(), diverged.clone(), parameters)

    def _epochs(self, told: Callable[[int], None] | None) -> tuple[Tensor, Tensor | None]:
        """Mean losses `[M, epochs]`, and those of the first step; None without an epoch."""
        recipe, (x, y), device = self.training.recipe, self.training.train, self.training.home
        members = self.training.members.cpu()
        places = torch.stack([row.nonzero()[:, 0] for row in members])
        orders = Orders(places, self.training.order_seeds, recipe.batch)
        steps = orders.steps * recipe.epochs
        curve = torch.zeros(len(members), recipe.epochs, dtype=self.dtype, device=device)
        start = None
        for epoch in range(recipe.epochs):
            drawn = orders.epoch().to(x.device)
            for k in range(orders.steps):
                lr = learning_rate(recipe, epoch * orders.steps + k, steps)
                xs, ys = (moved(_rows(rows, drawn[k]), device) for rows in (x, y))
                self.engine.step(xs, ys, lr)
            losses = self.engine.losses()
            curve[:, epoch] = losses.mean(0)
            start = losses[0] if start is None else start
            if told is not None:
                told(epoch + 1)
        return curve, start


def _rows(x: Rows, places: Tensor) -> Tensor:
    """Examples of every model's minibatch, `[M, B, …]`."""
    flat = places.reshape(-1)
    found = x.index_select(0, flat) if isinstance(x, Tensor) else x[flat]
    return found.reshape(*places.shape, *x.shape[1:])


def _query_losses(stack: Stack, training: Training) -> Tensor:
    """`[M, Q]` losses of the queries, as many at once as a pass over all rows takes."""
    step = rows_at_once(training.query[0])
    whole = range(0, len(training.query[0]), step)
    found = []
    for start in whole:
        x, y = (moved(rows[start : start + step], training.home) for rows in training.query)
        found.append(_losses(stack, training.asked, x, y))
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _losses(stack: Stack, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    outputs = stack.outputs(x)
    models = len(outputs)
    labels = y.repeat(models, *[1] * (y.ndim - 1))
    with torch.inference_mode(False), torch.no_grad():
        # A copy made here is an ordinary tensor, which a function under `torch.func` may read.
        flat = loss.per_example(outputs.reshape(-1, *outputs.shape[2:]).clone(), labels.clone())
    return flat.reshape(models, -1)


def _in_order(parts: Sequence[TrainedModels], order: Tensor) -> TrainedModels:
    """Put the stacks' models back where their subsets stood."""
    back = order.argsort()
    kept = None
    if parts[0].parameters is not None:
        states = [p.parameters for p in parts if p.parameters is not None]
        kept = {n: torch.cat([s[n] for s in states])[back] for n in states[0]}
    return TrainedModels(
        torch.cat([p.query_loss for p in parts])[back],
        torch.cat([p.curve for p in parts])[back],
        torch.cat([p.diverged for p in parts])[back],
        kept,
    )
