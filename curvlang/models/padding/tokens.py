"""Positions of all training examples one behind the other, without padding: where each example's begin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.models.padding.spans import Spans


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The own positions of every row, one row behind the other.

    Args:
        spans: Where a row's positions begin and end; the others are padding.
    """

    spans: Spans

    @property
    def offsets(self) -> Tensor:
        """Where the positions of every row begin, and the end of the last, [N + 1]."""
        behind = self.spans.lengths.to(torch.int64).cumsum(0)
        return torch.cat([behind.new_zeros(1), behind])

    @property
    def count(self) -> int:
        """Of all rows."""
        return int(self.spans.lengths.sum())

    def rows_of(self, within: range) -> range:
        """The rows that have some of these positions."""
        own = torch.tensor([within.start, within.stop - 1])
        first, last = torch.searchsorted(self.offsets, own, right=True).tolist()
        return range(first - 1, last)

    def flat(self, rows: slice | Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
        """Which positions of some rows are their own, [B, width], and where these stand among all.

        Args:
            rows: The rows' numbers.
            start: The first position that was kept of them.
            width: How many were kept.
        """
        own, places = self.spans.at(rows), torch.arange(start, start + width)
        inside = (places >= own.first[:, None]) & (places < own.stop[:, None])
        begin = self.offsets[:-1][rows]
        return inside, (begin[:, None] + places - own.first[:, None])[inside]


def whole_rows(count: int, positions: int) -> Spans:
    """The spans of rows that have no padding."""
    first = torch.zeros(count, dtype=torch.int64)
    return Spans(first, first + positions, positions)
