"""Self-influence as a stream: some examples at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.factored import (
    block_self_scores,
)
from curvlang.attribution.gradients import (
    batch_size,
    check_scores,
    gradient_batches,
    product,
)
from curvlang.attribution.passes import BatchLoad
from curvlang.attribution.passes import batch_size as leaf_batch_size
from curvlang.attribution.streams.batch import ScoreBatch, Unit
from curvlang.attribution.streams.cut import ScoreCut, score_cut
from curvlang.models.task import Task
from curvlang.operators import Operator


class SelfStream:
    """`∇ℓ_nᵀ C⁻¹ ∇ℓ_n` of the examples of a part, as they come.

    Args:
        inverse: C⁻¹.
        task: Its examples.
        part: `train` or `query`.
        size: Examples of a chunk; by shapes where not given.
    """

    def __init__(
        self, inverse: Operator, task: Task, part: str = "train", size: int | None = None
    ) -> None:
        self.inverse = inverse
        self.task = task
        self.part = part
        self.given = scored_blocks(inverse, task)
        total = len(task.part(part)[0])
        if size is not None:
            self.cut = ScoreCut(total, size)
        elif self.given is None:
            self.cut = score_cut(total, batch_size(task), 1)
        else:
            layers = [x.layer for x in self.given]
            formed = max((x.layer.size for x in self.given if not x.by_leaves), default=0)
            self.cut = score_cut(total, leaf_batch_size(task, layers, BatchLoad(formed)), 1)

    @property
    def of_pairs(self) -> bool:
        """Scores are of examples alone."""
        return False

    @property
    def turn(self) -> int:
        """There are no queries."""
        return 1

    @property
    def turns(self) -> int:
        """There are no queries that could take turns."""
        return 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all scores."""
        return (self.cut.total,)

    @property
    def names(self) -> tuple[str, ...]:
        """Scores are added up over layers."""
        return ()

    @property
    def units(self) -> list[Unit]:
        """Every chunk."""
        return [(0, k) for k in range(self.cut.count)]

    def batches(
        self, units: Collection[Unit] | None = None, turns: Collection[int] = ()
    ) -> Iterator[ScoreBatch]:
        """Scores of every unit, or of some.

        Args:
            units: Which.
            turns: As for `ScoreStream`; nothing is computed in step.

        Raises:
            SpecError: E0420 or E0794 for scores that are not finite.
        """
        for _, k in self.units if units is None else sorted(units):
            within = self.cut.chunk(k)
            scores = self.source(within)
            check_scores([scores], self.task, parts=(self.part,))
            yield ScoreBatch(None, slice(within.start, within.stop), {"": scores})

    def source(self, within: range) -> Tensor:
        """Of some examples, [B]."""
        if self.given is not None:
            return block_self_scores(self.task, self.given, self.part, within)
        found = []
        for v in gradient_batches(self.task, self.task.loss, self.part, within):
            v = v.to(self.inverse.dtype)
            found.append((product(self.inverse, v) * v).sum(-1))
        return torch.cat(found)
