"""Queries that take turns, and in each of them the training examples chunk by chunk: what streams of pairs share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator

from curvlang.attribution.gradients import check_scores
from curvlang.attribution.streams.batch import ScoreBatch, Source, Unit, ready, rows_of
from curvlang.attribution.streams.cut import ScoreCut
from curvlang.attribution.streams.request import Request
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.operators import Operator


class StreamInTurns(ABC):
    """Scores of queries against training examples, or a score of these that all queries decide.

    Attributes:
        task: Queries and training examples.
        inverse: C⁻¹.
        cost: What the queries are scored by.
        request: Which scores, and how.
        rows: Queries, or groups of them.
        turn: Queries of a turn.
        cut: The training examples in chunks.
    """

    task: Task
    inverse: Operator
    cost: Loss
    request: Request
    rows: int
    turn: int
    cut: ScoreCut

    @property
    def of_pairs(self) -> bool:
        """Whether there is a score for every query, not only for every training example."""
        return True

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the layers; empty where scores are added up over them."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of all scores, or of each layer's."""

    @property
    def in_step(self) -> bool:
        """Whether the processes share products that the inverse is solved by."""
        return not self.inverse.spectrum_known

    @property
    def turns(self) -> int:
        """How often the training examples are read."""
        return -(-self.rows // self.turn)

    @property
    def units(self) -> list[Unit]:
        """Every turn with every chunk of the training examples."""
        return [(t, k) for t in range(self.turns) for k in range(self.cut.count)]

    def own(self, turn: int) -> slice:
        """The queries of a turn."""
        return slice(turn * self.turn, min((turn + 1) * self.turn, self.rows))

    @abstractmethod
    def source(self, turn: int) -> Source:
        """The queries of a turn, ready to meet training examples."""

    def batches(
        self, units: Collection[Unit] | None = None, turns: Collection[int] = ()
    ) -> Iterator[ScoreBatch]:
        """Scores of every unit, or of some; what is known of a turn's queries is found when it begins.

        Args:
            units: Which.
            turns: Those in which any process has a unit, where all of them call this in step.

        Raises:
            SpecError: E0420 or E0794 for scores that are not finite.
        """
        wanted = sorted(self.units if units is None else units)
        for turn in sorted({t for t, _ in wanted}.union(turns)):
            source = ready(self, turn, shared=bool(turns))
            for k in (k for t, k in wanted if t == turn):
                within = self.cut.chunk(k)
                scores = source(within)
                check_scores(scores.values(), self.task, self.cost)
                yield ScoreBatch(rows_of(self, turn), slice(within.start, within.stop), scores)
