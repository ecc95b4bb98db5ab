"""How far two curvatures' scores and preconditioned gradients agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from curvlang.attribution.scores import product
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.operators.operator import Operator


def influence_error(found: Tensor, reference: Tensor) -> float:
    """1 − Spearman of the scores against the reference's, mean over queries."""
    return float(1 - spearman(found, reference).mean())


def cosine(found: Tensor, reference: Tensor) -> float:
    """Mean cosine between rows: preconditioned gradients `[n, P]` of two curvatures."""
    return float(torch.nn.functional.cosine_similarity(found, reference, dim=-1).mean())


def inverse_error(reference: Operator, preconditioned: Tensor, gradients: Tensor) -> float:
    """Mean over examples of ‖H C⁻¹v − v‖² / ‖v‖²; rows of zero gradient are left out.

    Args:
        reference: H.
        preconditioned: `[n, P]` rows C⁻¹v.
        gradients: `[n, P]` rows v.
    """
    norms = gradients.square().sum(-1)
    kept = norms > 0
    residual = product(reference, preconditioned) - gradients
    return float((residual.square().sum(-1)[kept] / norms[kept]).mean()) if kept.any() else 0.0


LEAST_WHOLE = 0.1
"""Of the steps' sizes together, how much must be left of them for shares to be told."""


def shares(values: list[float | None]) -> Iterator[float | None]:
    """(e_k − e_{k−1}) / (e_last − e_first) for every step; the first step has none.

    Where the steps all but cancel, the whole is no measure for its parts: no step has a share.
    """
    known = [v for v in values if v is not None]
    total = known[-1] - known[0] if len(known) == len(values) and known else 0.0
    if abs(total) < LEAST_WHOLE * sum(abs(b - a) for a, b in itertools.pairwise(known)):
        total = 0.0
    yield None
    for before, after in itertools.pairwise(values):
        if before is None or after is None or total == 0.0:
            yield None
        else:
            yield (after - before) / total
