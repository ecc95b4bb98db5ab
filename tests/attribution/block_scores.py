"""Scores of every block alone, by what the engine itself calls."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from curvlang.attribution.factored import Blocks, Preconditioner, TrainingProducts
from curvlang.attribution.score_orders import Queries
from curvlang.models.task import Task


def block_scores(
    task: Task,
    given: Blocks,
    queries: Mapping[str, Queries],
    products: torch.dtype | None = None,
    *,
    apart: bool = True,
) -> dict[str, Tensor]:
    """Scores [Q, N] of every block against the training examples, in the operators' precision.

    Args:
        task: The training examples.
        given: The blocks.
        queries: Preconditioned queries of each.
        products: As for `TrainingProducts`.
        apart: Likewise.
    """
    found = TrainingProducts(task, [Preconditioner(given, queries)], products, apart=apart)
    return found.over(range(task.N))[0]
