"""Losses with their parameters, and the metrics of queries."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.common import NOT_NEGATIVE
from curvlang.language.registry.entry import Entry, Parameter
from curvlang.language.registry.kinds import Choice, Integer, Limits, NumberList, Real

LOSSES: Mapping[str, Entry] = {
    "cross_entropy": Entry(
        "softmax cross-entropy, summed over an example's positions or averaged",
        {
            "positions": Parameter(
                Choice(("sum", "mean")), "sum", "sum or mean over an example's positions"
            ),
            "label_smoothing": Parameter(
                Real(Limits(0, 1)), 0.0, "share of a target spread evenly over all classes"
            ),
            "ignore_index": Parameter(Integer(), -100, "label of positions that are left out"),
            "weight": Parameter(
                NumberList(NOT_NEGATIVE), (), "a weight for every class; empty for 1 each"
            ),
        },
    ),
    "mse": Entry("mean over the outputs of the squared error"),
    "bce_with_logits": Entry(
        "mean over the outputs of the logistic loss; targets from 0 to 1",
        {
            "pos_weight": Parameter(
                NumberList(NOT_NEGATIVE),
                (),
                "weight of the positive term, for every output or one for all; empty for 1",
            )
        },
    ),
}

METRICS: Mapping[str, Entry] = {
    "loss": Entry("the query's loss: positive scores lower it"),
    "margin": Entry(
        "the logit of the true class less logsumexp of the others: positive scores raise it"
    ),
    "logit": Entry("the logit of the true class: positive scores raise it"),
}
"""What scores are of (`--metric`)."""
