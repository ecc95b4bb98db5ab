"""An estimate with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile bootstrap interval. `low = high = nan` where none was asked for."""

    estimate: float
    low: float
    high: float
