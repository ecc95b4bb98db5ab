"""What an evaluation and a study measure: the LDS, baselines, measures, grids and seeds."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.common import (
    AT_LEAST_TWO,
    COUNT,
    NOT_NEGATIVE,
    SHARE,
    seed,
)
from curvlang.language.registry.entry import Entry, Parameter
from curvlang.language.registry.kinds import Choice, Integer, Limits, NumberOr

LDS = Entry(
    "linear datamodelling score by retraining on random subsets",
    {
        "subsets": Parameter(AT_LEAST_TWO, 100, "random subsets of the training examples"),
        "keep": Parameter(SHARE, 0.5, "share of the examples that a subset keeps"),
        "retrains": Parameter(COUNT, 5, "trainings of each subset, averaged"),
        "queries": Parameter(
            NumberOr(COUNT, "all"), "all", "queries that are scored, from the first"
        ),
        "initialisation": Parameter(
            Choice(("fresh", "shared")), "fresh", "of every training its own, or one for all"
        ),
        "groups": Parameter(
            Choice(("random", "one", "class")),
            "random",
            "what a subset leaves out: a random share, one example, or one class",
        ),
        "seed": seed("subsets, initialisations, orders and the bootstrap"),
        "bootstrap": Parameter(AT_LEAST_TWO, 1000, "resamples for the intervals"),
    },
)

BASELINES: Mapping[str, Entry] = {
    "representation_cosine": Entry("cosine of what enters the last module with parameters"),
    "metagradient": Entry(
        "exact derivative of the query's loss by an example's weight, through every step of training",
        {"models": Parameter(COUNT, 1, "trainings that scores are averaged over")},
    ),
}
"""Scores that are not formulas of gradients, which a study compares with the curvatures beside those that are."""

MEASURES: Mapping[str, Entry] = {
    "mislabelled": Entry(
        "area under the ROC curve of finding changed labels by influence on themselves",
        {
            "share": Parameter(SHARE, 0.1, "share of the labels that are changed"),
            "seed": seed("the choice of labels"),
        },
    ),
    "proximal_response": Entry(
        "rank agreement with the proximal Bregman response (Bae et al. 2022, arXiv:2209.05364)",
        {
            "examples": Parameter(AT_LEAST_TWO, 20, "examples that are left out, one at a time"),
            "steps": Parameter(COUNT, 30, "iterations of L-BFGS for each"),
            "seed": seed("the choice of examples"),
        },
    ),
    "brittleness": Entry(
        "share of right predictions that flip without their supporters (Ilyas et al. 2022, arXiv:2202.00622)",
        {
            "share": Parameter(SHARE, 0.05, "share of the examples that is left out"),
            "queries": Parameter(COUNT, 10, "right predictions that are tried"),
            "retrains": Parameter(COUNT, 3, "trainings without the supporters of each"),
            "seed": seed("the retrainings"),
        },
    ),
}
"""Ground truths of a study besides retraining on subsets."""

SEEDS = Parameter(Integer(Limits(1, 100)), 1, "models of a cell, each of its own seed")
SEED = seed("a model of a cell")
GRID = Parameter(NOT_NEGATIVE, doc="a λ of inverses that leave their damping open")
"""An entry of a study's `damping` line."""
