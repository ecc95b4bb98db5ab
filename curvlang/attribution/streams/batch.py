"""Some scores of a stream: of which queries against which training examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

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
