"""How many queries fit into memory: what is held of one until it meets training examples, and of its scores."""

from __future__ import annotations

from collections.abc import Sequence

from curvlang.attribution.blocks import ScoredBlock, scored_in
from curvlang.attribution.passes import MOST
from curvlang.models.task import Task
from curvlang.runtime.limits.memory import available

QUERIES_SHARE = 2
"""Preconditioned queries may take half of the free memory; others wait for their turn, and all training
examples are read again. Batches take a quarter."""
CHUNK_SHARE = 8
"""Scores of a chunk may take an eighth of it: two or three copies of them are held at times."""
_EXACT = 8
"""Bytes of a score, and of a number of a gradient over all parameters."""


def numbers_of(given: Sequence[ScoredBlock]) -> int:
    """Numbers of a preconditioned query, by layers."""
    return sum(x.layer.d_out + x.layer.d_in if x.by_leaves else x.layer.size for x in given)


def query_bytes(task: Task, given: Sequence[ScoredBlock] | None, rows: int = 2) -> int:
    """Bytes of a query.

    Args:
        task: Its model.
        given: C⁻¹ by layers; None where gradients over all parameters are formed.
        rows: Of these: the gradient, and what C⁻¹ makes of it.
    """
    if given is None:
        return _EXACT * rows * task.P
    own, products = task.precision.itemsize, scored_in(task).itemsize
    # Gradients have a copy for products in a narrower precision.
    copies = sum(x.layer.size for x in given if not x.by_leaves) if products < own else 0
    return own * numbers_of(given) + products * copies


def score_bytes(task: Task, numbers: int = 1) -> int:
    """Bytes of the scores of a query, or group, with a chunk of training examples.

    Args:
        task: The training examples.
        numbers: Of a pair: one for each layer and position.
    """
    return _EXACT * numbers * min(task.N, MOST)


def share_of_queries(task: Task) -> int:
    """Bytes that queries may take together."""
    return available(task.device) // QUERIES_SHARE


def queries_at_once(task: Task, each: int, scores: int = 0) -> int:
    """Queries that fit, one at least.

    Args:
        task: Says on which device.
        each: Bytes of a query.
        scores: Bytes of its scores with a chunk.
    """
    fits = share_of_queries(task) // each
    if scores:
        fits = min(fits, available(task.device) // CHUNK_SHARE // scores)
    return max(1, fits)
