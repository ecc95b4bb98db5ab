"""How a result was made: scores, spec, provenance and times, as a run folder keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.measures.grid import MeasureTable
from curvlang.evaluation.result import Result


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """How a result was made.

    Args:
        scores: `[Q, N]` of the curvature itself at the shared setting.
        step_scores: The same for every step, by label.
        spec_text: The spec as run.
        provenance: What would repeat the run.
        times: Seconds of each part.
        problem: Why there are no scores.
        others: The results under further inverses.
        measures: Ground truths beyond the LDS by name, a table of curvatures and settings for every
            inverse.
    """

    scores: NDArray[np.float64] | None
    step_scores: Mapping[str, NDArray[np.float64]]
    spec_text: str
    provenance: Mapping[str, object]
    times: Mapping[str, float]
    problem: SpecError | None = None
    others: tuple[Result, ...] = ()
    measures: Mapping[str, tuple[MeasureTable, ...]] = field(default_factory=dict)

    @property
    def models(self) -> Any:
        """How many models were retrained, read from the cache, damaged; None without LDS."""
        return self.provenance.get("models")
