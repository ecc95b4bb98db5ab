"""What a score reads at a point: gradients of queries and of training examples, solved or not; their doubts."""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.attribution.formulas.points import Point
from curvlang.attribution.gradients import MOST, gradient_batches, product, query_gradients
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task


def query_rows(point: Point, cost: Loss, weights: Tensor | None) -> Tensor:
    """Gradients of the queries' metric [Q, P], or of groups of them, in the inverse's precision."""
    if point.coordinates is not None:
        found = point.coordinates.rows(point.task, cost, "query").to(point.inverse.dtype)
        return found if weights is None else weights.to(found) @ found
    return query_gradients(point.task, cost, weights).to(point.inverse.dtype)


def training_rows(point: Point, within: range) -> Tensor:
    """Gradients of some training examples' losses [B, P], in the inverse's precision."""
    if point.coordinates is not None:
        rows = point.coordinates.rows(point.task, point.task.loss, "train", within)
        return rows.to(point.inverse.dtype)
    found = gradient_batches(point.task, point.task.loss, "train", within)
    return torch.cat([v.to(point.inverse.dtype) for v in found])


def solved(point: Point, rows: Tensor, count: int) -> Tensor:
    """`(C⁻¹)^count` of every row."""
    for _ in range(count):
        rows = product(point.inverse, rows)
    return rows


def doubts(task: Task, part: str, within: range | None = None) -> Tensor:
    """1 − p of the label of some examples, from the loss −log p."""
    with torch.no_grad():
        pieces = [
            task.loss.per_example(task.model(x), y) for x, y in task.batches(MOST, part, within)
        ]
    return -torch.expm1(-torch.cat(pieces))
