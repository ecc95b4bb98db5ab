"""Retraining: all subset models at once, each with its own minibatches from its own subset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.losses import loss_named
from curvlang.models.recipe import Recipe
from curvlang.models.task import Build
from curvlang.training.built import built
from curvlang.training.engines import Stack, engine
from curvlang.training.orders import Orders, learning_rate
from curvlang.training.stacked_mlp import StackedMLP

DIVERGED = 100.0
"""Growth of the loss from the first minibatch to the last epoch that is no training any more."""

Progress = Callable[[int, int], None]

CHUNK = 125
"""Models trained in one stack: past this the weights and activations leave the caches."""


@dataclass(frozen=True, slots=True, eq=False)
class Retrained:
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
    build: Build,
    loss: str | Loss,
    train: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    members: Tensor,
    recipe: Recipe,
    init_seeds: Sequence[int],
    order_seeds: Sequence[int],
    *,
    keep_parameters: bool = False,
    progress: Progress | None = None,
    chunk: int = CHUNK,
    generic: bool = False,
    asked: Loss | None = None,
) -> Retrained:
    """Train one model per row of `members`.

    Args:
        build: A fresh model for a seed.
        loss: A loss, or its name.
        train: Training examples `(X [N, …], y [N, …])`.
        query: Queries.
        members: `[M, N]` of bool: the subset of each model.
        recipe: How to train.
        init_seeds: Seed of each model's initialisation.
        order_seeds: Seed of each model's minibatches.
        keep_parameters: Whether the trained parameters are returned.
        progress: Told about the steps done, in model-steps.
        chunk: Models in one stack.
        generic: Use the path for any module also where the faster one applies.
        asked: What the queries are asked for in place of their loss.

    Returns:
        Query losses, curves, and which models diverged; one model's numbers do not depend on
        which others are trained beside it, beyond rounding.
    """
    sizes = members.sum(1)
    parts: dict[int, Retrained] = {}
    rule = loss_named(loss)
    total = len(members) * recipe.epochs
    done = 0
    order: list[Tensor] = []
    for size in sizes.unique().tolist():
        alike = (sizes == size).nonzero()[:, 0]
        for rows in alike.split(chunk):
            told = None
            if progress is not None:
                told = _offset(progress, done, total, len(rows))
            parts[len(order)] = _train_stack(
                build,
                rule,
                train,
                query,
                members[rows],
                recipe,
                [init_seeds[k] for k in rows.tolist()],
                [order_seeds[k] for k in rows.tolist()],
                keep_parameters,
                told,
                generic,
                asked,
            )
            order.append(rows)
            done += len(rows) * recipe.epochs
    return _in_order([parts[k] for k in range(len(order))], torch.cat(order))


def _offset(progress: Progress, done: int, total: int, models: int) -> Callable[[int], None]:
    return lambda epoch: progress(done + epoch * models, total)


def _train_stack(
    build: Build,
    loss: Loss,
    train: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    members: Tensor,
    recipe: Recipe,
    init_seeds: Sequence[int],
    order_seeds: Sequence[int],
    keep_parameters: bool,
    told: Callable[[int], None] | None,
    generic: bool,
    asked: Loss | None,
) -> Retrained:
    x, y = train
    models = built(build, init_seeds, x)
    dtype = next(p.dtype for p in models[0].parameters() if p.requires_grad)
    names = [n for n, p in models[0].named_parameters() if p.requires_grad]
    with torch.no_grad():
        stack = engine(models, loss, recipe, train, generic=generic)
    # Inference mode saves a twentieth of the time; `torch.func` does not run under it.
    fast = isinstance(stack, StackedMLP)
    with torch.inference_mode() if fast else torch.no_grad():
        places = torch.stack([row.nonzero()[:, 0] for row in members.cpu()])
        orders = Orders(places, order_seeds, recipe.batch)
        steps = orders.steps * recipe.epochs
        curve = torch.zeros(len(models), recipe.epochs, dtype=dtype, device=x.device)
        for epoch in range(recipe.epochs):
            drawn = orders.epoch().to(x.device)
            for k in range(orders.steps):
                lr = learning_rate(recipe, epoch * orders.steps + k, steps)
                stack.step(_rows(x, drawn[k]), _rows(y, drawn[k]), lr)
            losses = stack.losses()
            curve[:, epoch] = losses.mean(0)
            if epoch == 0:
                start = losses[0]
            if told is not None:
                told(epoch + 1)
        query_loss = _query_losses(stack, asked or loss, query)
        diverged = ~(torch.isfinite(curve).all(1) & torch.isfinite(query_loss).all(1))
        if recipe.epochs:
            diverged |= curve[:, -1] > DIVERGED * start
        kept = stack.parameters(names) if keep_parameters else None
    parameters = None if kept is None else {n: p.clone() for n, p in kept.items()}
    return Retrained(query_loss.clone(), curve.clone(), diverged.clone(), parameters)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Examples of every model's minibatch, `[M, B, …]`."""
    return x.index_select(0, places.reshape(-1)).reshape(*places.shape, *x.shape[1:])


def _query_losses(stack: Stack, loss: Loss, query: tuple[Tensor, Tensor]) -> Tensor:
    """`[M, Q]` losses of the queries."""
    outputs = stack.outputs(query[0])
    models = len(outputs)
    labels = query[1].repeat(models, *[1] * (query[1].ndim - 1))
    with torch.inference_mode(False), torch.no_grad():
        # A copy made here is an ordinary tensor, which a function under `torch.func` may read.
        flat = loss.per_example(outputs.reshape(-1, *outputs.shape[2:]).clone(), labels.clone())
    return flat.reshape(models, -1)


def _in_order(parts: Sequence[Retrained], order: Tensor) -> Retrained:
    """Put the stacks' models back where their subsets stood."""
    back = order.argsort()
    kept = None
    if parts[0].parameters is not None:
        states = [p.parameters for p in parts if p.parameters is not None]
        kept = {n: torch.cat([s[n] for s in states])[back] for n in states[0]}
    return Retrained(
        torch.cat([p.query_loss for p in parts])[back],
        torch.cat([p.curve for p in parts])[back],
        torch.cat([p.diverged for p in parts])[back],
        kept,
    )
