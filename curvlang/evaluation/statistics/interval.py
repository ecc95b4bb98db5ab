"""An estimate with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile bootstrap interval.

    `low = high = nan` where none was asked for, or where one value says nothing of the spread.
    """

    estimate: float
    low: float
    high: float

    @property
    def has_ends(self) -> bool:
        """Whether there is an interval around the estimate."""
        return not (isnan(self.low) or isnan(self.high))


def one_query_note(queries: int) -> str:
    """What an interval of the LDS of one query leaves out; empty for several queries."""
    if queries > 1:
        return ""
    return "one query: intervals are over subsets alone, and hold for this query only"
