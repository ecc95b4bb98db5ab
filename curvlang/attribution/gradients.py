"""Gradients of examples over all parameters, batch by batch or all at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from curvlang.attribution.finite_scores import check_gradients
from curvlang.models.losses.finite import in_part
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import check_batch
from curvlang.models.tracing.half_precision import exact_gradients

GRADIENT_BYTES = 2**28
"""Per-example gradients that are held at once."""
MOST = 512
"""Examples that go through the model at once."""


def gradient_batches(task: Task, loss: Loss, part: str) -> Iterator[Tensor]:
    """Gradients `[B, P]` of a loss on consecutive examples of a part."""
    known, found = task.facts, task.blocks()
    done = 0
    for number, (x, y) in enumerate(task.batches(batch_size(task), part)):

        def of_batch(x: Tensor = x, y: Tensor = y, number: int = number) -> Tensor:
            layers = found if known is task.facts else task.blocks()
            if task.facts.picks:
                check_batch(task.model, x, layers, number)
            return exact_gradients(task.model, loss, x, y, layers)

        with in_part(task.model, x, part, done):
            v = task.retried(of_batch)
        check_gradients(v, task, loss, part, done)
        yield v
        done += len(v)


def gradients(task: Task, part: str, cost: Loss | None = None) -> Tensor:
    """Gradients of every example's loss, `[N, P]` for `train`, `[Q, P]` for `query`.

    Args:
        task: Model and data.
        part: `train` or `query`.
        cost: What the examples are asked for in place of their loss.
    """
    return torch.cat(list(gradient_batches(task, cost or task.loss, part)))


def batch_size(task: Task, columns: int = 1) -> int:
    """Examples whose gradients, `columns` of them each, are held at once."""
    size = torch.empty((), dtype=task.precision).element_size()
    return max(1, min(MOST, GRADIENT_BYTES // (size * task.P * columns)))
