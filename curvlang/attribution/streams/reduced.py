"""Queries of low rank and products in a lower precision, each with a warning of what it changes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from curvlang.attribution.compressed import compressed, score_bound
from curvlang.attribution.factored import Blocks, probed_count, product_error
from curvlang.attribution.score_orders import Queries
from curvlang.attribution.streams.request import check_share
from curvlang.models.losses.loss import show_dtype
from curvlang.models.task import Task


class ReducedPrecision(UserWarning):
    """What products in a lower precision change."""


class CompressedQueries(UserWarning):
    """By how much scores of compressed queries may be off."""


def warn_of_products(
    task: Task, given: Blocks, queries: Mapping[str, Queries], products: torch.dtype
) -> None:
    """Measure on a few training examples what products in a narrower precision change, and warn of it."""
    if products.itemsize >= task.precision.itemsize:
        return
    error = product_error(task, given, queries, products)
    warnings.warn(
        f"products in {show_dtype(products)}: scores of {probed_count(task)} training examples differ by at "
        f"most {error:.1g} of the largest",
        ReducedPrecision,
        stacklevel=2,
    )


def compressed_queries(
    task: Task, given: Blocks, queries: Mapping[str, Queries], share: float
) -> dict[str, Queries]:
    """Queries of low rank; a warning says what that may change."""
    check_share(share)
    found = {name: compressed(u, share) for name, u in queries.items()}
    bound = float(score_bound(task, given, found).max())
    warnings.warn(
        f"queries of low rank: no score is off by more than {bound:.2g}",
        CompressedQueries,
        stacklevel=2,
    )
    return {name: x.queries for name, x in found.items()}
