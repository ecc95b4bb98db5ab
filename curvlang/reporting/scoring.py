"""What an explanation says of scores: their operations and bytes, and those of an index of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from curvlang.compiler.explain.listing import binary, cost_text, count
from curvlang.costs.planned_scores import (
    IndexPrediction,
    ScoresPrediction,
    predicted_index,
    predicted_score,
    said_formula,
)
from curvlang.language.chain import Evaluation
from curvlang.models.task import Task
from curvlang.runtime.prepare import Preparation

KIND = torch.float64
"""The precision that an index keeps numbers in where nothing else is said."""


@dataclass(frozen=True, slots=True)
class ScoringReport:
    """The part of an explanation that is about scores.

    Args:
        queries: How many.
        examples: Training examples.
        scores: All scores.
        index: An index of them; None where there is none.
    """

    queries: int
    examples: int
    scores: ScoresPrediction
    index: IndexPrediction | None

    def lines(self) -> Iterator[str]:
        """The scores, and the index."""
        most, more = "", "" if self.scores.counted else ", and the products that a solver asks for"
        if self.scores.most:
            most = "at most "
            more = f", with the {self.scores.most} products for a vector that `cg` may ask for; most take far fewer"
        yield (
            f"  scores of {self.queries} queries with {self.examples} training examples: {most}"
            f"{cost_text(self.scores.stage.cost)}{more}"
        )
        if self.index is not None:
            numbers = f"{self.index.numbers} number{'s' if self.index.numbers > 1 else ''}"
            yield (
                f"  an index for later queries: {numbers} of each training example, "
                f"{binary(self.index.bytes(KIND))}; written in one pass of the model and "
                f"{count(self.index.writing.flops, 'FLOP')}, scores against it {count(self.index.scoring.flops, 'FLOP')}"
            )

    def to_json(self) -> dict[str, Any]:
        """All numbers, plain."""
        cost = self.scores.stage.cost
        found = {
            "queries": self.queries,
            "examples": self.examples,
            "flops": cost.flops,
            "moved": cost.bytes,
            "counted": self.scores.counted,
            "most_products": self.scores.most,
        }
        if self.index is None:
            return found
        return found | {"index": asdict(self.index) | {"bytes": self.index.bytes(KIND)}}


def scoring_report(
    said: Evaluation | None, prepared: Preparation, task: Task
) -> ScoringReport | None:
    """What scores take; None where that cannot be predicted.

    Args:
        said: What the spec says of score, inverse and solver.
        prepared: Plans of the fit.
        task: Queries and training examples.
    """
    scores = predicted_score(said, prepared, task, None)
    if scores is None:
        return None
    return ScoringReport(
        task.Q, task.N, scores, predicted_index(said_formula(said), prepared, task)
    )
