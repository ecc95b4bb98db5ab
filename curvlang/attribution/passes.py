"""Passes over the examples of a task: what every layer shows of them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.gradients import BATCH_SHARE
from curvlang.models.layers import Input
from curvlang.models.losses.finite import in_part
from curvlang.models.losses.loss import Loss
from curvlang.models.padding.spans import BatchRows
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import BatchChecks, LayerBlock
from curvlang.models.tracing.half_precision import exact_leaves
from curvlang.models.tracing.leaves import Fisher, LeafRequest
from curvlang.runtime.limits.activations import activation_bytes
from curvlang.runtime.limits.memory import allowance
from curvlang.runtime.positions.alignment import varying

HELD = 2**27
"""Bytes that the largest intermediate result of a batch may take."""
MOST = 1024
"""Examples that go through the model at once."""
BESIDE_MOST = 2**30
"""Where what every batch meets takes more, a batch may take as much, and at most so many bytes: it is read
again for each."""


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """What a batch of examples takes besides the model and its leaves.

    Args:
        formed: Numbers for every example that are formed at once of a block.
        beside: Bytes that every batch reads, however few its examples are.
    """

    formed: int
    beside: int = 0


def leaf_batches(
    task: Task,
    loss: Loss,
    layers: Sequence[LayerBlock],
    part: str,
    load: BatchLoad,
    within: range | Sequence[BatchRows] | None = None,
) -> Iterator[tuple[slice | Tensor, dict[str, tuple[Input, Tensor]]]]:
    """Inputs and output gradients of every block, batch by batch, with the numbers of its examples.

    Args:
        task: Model and data.
        loss: Of which gradients are taken.
        layers: The blocks.
        part: `train` or `query`.
        load: What the caller forms of a batch, and what it meets.
        within: The examples that are read, or batches of `cuts_of`; all where not given.
    """
    if within is None or isinstance(within, range):
        cuts = cuts_of(task, layers, part, load, within)
    else:
        cuts = [*within]
    # Parts of a pass go on counting: some batches of all are looked at, not some of every part.
    first = within.start // max(map(len, cuts), default=1) if isinstance(within, range) else 0
    checks = BatchChecks(task.model)
    for number, batch in enumerate((task.read(x, part) for x in cuts), first):
        X = batch.X
        with in_part(task.model, X, part, batch.start):
            if task.facts.picks:
                checks.see(X, layers, number)
            found = exact_leaves(task.model, loss, X, batch.y, layers, LeafRequest({"a", "e"}))
        for b in layers:
            if b.positions == 1 != found[b.name]["a"].shape[-2]:
                raise varying(b.layer)
        yield batch.places, {b.name: (found[b.name]["a"], found[b.name]["e"]) for b in layers}
    checks.settle(lambda: (task.read(x, part).X for x in cuts))


def cuts_of(
    task: Task,
    layers: Sequence[LayerBlock],
    part: str,
    load: BatchLoad,
    within: range | None = None,
    shares: int = 1,
) -> list[BatchRows]:
    """The batches of `leaf_batches`, none of which is read; its arguments.

    Their number is a multiple of `shares`, where they are `within` some.
    """

    def rows_at(share: float) -> int:
        size = batch_size(task, layers, load, share)
        if within is None:
            return size
        # Batches of one size: a last one of few examples takes as long to start as any other.
        count = -(-len(within) // size)
        return -(-len(within) // (-(-count // shares) * shares))

    return [*task.cuts(rows_at, part, within)]


def scored_elements(layers: Sequence[LayerBlock], queries: int) -> int:
    """Numbers for every training example: its gradient with several positions, else its scores.

    With one position `score_orders` bounds what is made of the queries by itself.
    """
    return max(b.size if b.positions > 1 or b.count > 1 else queries for b in layers)


def scored_load(task: Task, layers: Sequence[LayerBlock], queries: int) -> BatchLoad:
    """What training examples meet: preconditioned gradients of the queries where layers have several positions."""
    size = torch.empty((), dtype=task.precision).element_size()
    held = sum(b.size for b in layers if b.positions > 1 or b.count > 1)
    return BatchLoad(scored_elements(layers, queries), size * queries * held)


def batch_size(
    task: Task, layers: Sequence[LayerBlock], load: BatchLoad, share: float = 1.0
) -> int:
    """Examples such that the model, its leaves and the largest intermediate result stay within bounds and the limit.

    Args:
        task: The model.
        layers: The blocks.
        load: What else they take.
        share: Of all positions, those that the examples have.
    """
    size = torch.empty((), dtype=task.precision).element_size()
    held = sum(b.leaf_elements for b in layers)
    each = max(share * max(size * held, model_bytes(task, layers)), size * load.formed)
    usual = max(HELD, min(load.beside, BESIDE_MOST))
    return max(1, min(MOST, int(allowance(usual, BATCH_SHARE) // each)))


def model_bytes(task: Task, layers: Sequence[LayerBlock]) -> int:
    """What the model holds for an example while its inputs and output gradients are computed."""
    return activation_bytes(task, task.loss, layers, Fisher("empirical"), MOST)
