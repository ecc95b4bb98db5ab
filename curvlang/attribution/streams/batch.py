"""Some scores of a stream: of which queries against which training examples; and what a stream is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from curvlang.attribution.streams.cut import ScoreCut
from curvlang.attribution.streams.request import Request
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.processes.in_step import in_step

Source = Callable[[range], dict[str, Tensor]]
"""Gives the scores of some queries against some training examples, by the layer's name or under no name."""
Unit = tuple[int, int]
"""A turn of queries, and a chunk of training examples."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreBatch:
    """Scores of some queries against some training examples.

    Args:
        rows: Which queries, or groups; None for self-influence.
        train: Which training examples, or which of their tokens.
        scores: [rows, train], with an axis of positions behind them where there is one, by the layer's
            name or under no name; self-influence [train].
    """

    rows: slice | None
    train: slice
    scores: Mapping[str, Tensor]

    @property
    def place(self) -> tuple[slice, ...]:
        """Where they lie among all scores."""
        return (self.train,) if self.rows is None else (self.rows, self.train)


class Stream(Protocol):
    """Scores that come in chunks of training examples, and in turns of queries where there are any."""

    @property
    def task(self) -> Task:
        """Queries and training examples."""

    @property
    def inverse(self) -> Operator:
        """C⁻¹, in whose precision scores are."""

    @property
    def cut(self) -> ScoreCut:
        """The training examples in chunks."""

    @property
    def turn(self) -> int:
        """Queries of a turn; 1 where there are none."""

    @property
    def turns(self) -> int:
        """How often the training examples are read."""

    @property
    def units(self) -> list[Unit]:
        """Every turn with every chunk."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers; empty where scores are added up over them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all scores, or of each layer's."""

    @property
    def of_pairs(self) -> bool:
        """Whether there is a score for every query, not only for every training example."""

    def batches(
        self, units: Collection[Unit] | None = None, turns: Collection[int] = ()
    ) -> Iterator[ScoreBatch]:
        """Scores of every unit, or of some.

        Args:
            units: Which.
            turns: Those in which any process has a unit, where all of them call this in step.
        """


class PairStream(Stream, Protocol):
    """Scores of queries against training examples."""

    @property
    def request(self) -> Request:
        """Which scores, and how."""

    @property
    def rows(self) -> int:
        """Queries, or groups of them."""

    @property
    def in_step(self) -> bool:
        """Whether the processes have something to share before the queries of a turn meet training examples."""

    def own(self, turn: int) -> slice:
        """The queries of a turn."""

    def source(self, turn: int) -> Source:
        """The queries of a turn, ready to meet training examples."""


def ready(stream: PairStream, turn: int, *, shared: bool = True) -> Source:
    """The queries of a turn, ready to meet training examples.

    Args:
        stream: The scores.
        turn: Which.
        shared: Whether all processes call this: they then share what is worth it, products that an inverse is
            solved by, and sums over the training examples.
    """
    if not shared or not stream.in_step:
        return stream.source(turn)
    with in_step():
        return stream.source(turn)


def rows_of(stream: Stream, turn: int) -> slice | None:
    """The queries of a turn; None where there are none."""
    if not stream.of_pairs:
        return None
    return slice(turn * stream.turn, min((turn + 1) * stream.turn, stream.shape[0]))
