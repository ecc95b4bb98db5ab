"""Solvers of linear systems with their parameters, and limits of the parameters of inverses."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.common import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, seed
from curvlang.language.registry.entry import NONE, Entry, Parameter
from curvlang.language.registry.kinds import CurvatureName, NumberOr

_SOLVER: Mapping[str, Parameter] = {
    "preconditioner": Parameter(CurvatureName(), NONE, "curvature whose damped inverse it uses"),
    "preconditioner_damping": Parameter(
        NumberOr(POSITIVE, "same"), "same", "λ of that inverse; `same` as what is solved"
    ),
}

SOLVERS: Mapping[str, Entry] = {
    "cg": Entry(
        "conjugate gradients on (C + λI) x = v, until the relative residual is small",
        {
            **_SOLVER,
            "tolerance": Parameter(SHARE, 1e-6, "relative residual at which it stops"),
            "iterations": Parameter(COUNT, 1000, "iterations at most"),
        },
    ),
    "neumann": Entry(
        "x ← x + lr · P (v − (C + λI) x) from 0, with P the damped inverse of the preconditioner",
        {
            **_SOLVER,
            "lr": Parameter(POSITIVE, 1.0, "length of a step"),
            "steps": Parameter(COUNT, 100, "steps"),
            "batch": Parameter(NumberOr(COUNT, "all"), "all", "training examples of a step"),
            "seed": seed("the order of the minibatches"),
        },
    ),
    "lissa": Entry(
        "h ← v + h − (C_batch + λI) h / scale from h = v, `depth` times, and h / scale at the end (LiSSA)",
        {
            "scale": Parameter(
                POSITIVE, 10.0, "above the largest eigenvalue of every batch, plus λ"
            ),
            "depth": Parameter(COUNT, 100, "steps of the recursion"),
            "batch": Parameter(NumberOr(COUNT, "all"), "all", "training examples of a step"),
            "repeats": Parameter(
                COUNT, 1, "runs of which the mean is taken, each with its own order"
            ),
            "seed": seed("the order of the minibatches"),
        },
    ),
    "arnoldi": Entry(
        "1 / (s + λ) on the leading eigenvectors, found by products with C, and 0 elsewhere",
        {
            "rank": Parameter(COUNT, 50, "eigenpairs, those of the largest size"),
            "iterations": Parameter(COUNT, 200, "products with C at most"),
            "tolerance": Parameter(
                SHARE, 1e-6, "residual of a pair, relative to the largest eigenvalue"
            ),
            "seed": seed("the first vector"),
        },
    ),
}
"""Solvers of `solve …`: what they apply is `1 / (s + λ)`, exactly or up to a stated residual."""

INVERSES: Mapping[str, Parameter] = {
    "damping": Parameter(NOT_NEGATIVE, doc="λ, added to every eigenvalue"),
    "rtol": Parameter(
        NOT_NEGATIVE, doc="share of the largest eigenvalue below which all count as 0"
    ),
    "lr": Parameter(NOT_NEGATIVE, doc="learning rate of the training"),
    "steps": Parameter(NOT_NEGATIVE, doc="steps of the training"),
    "relative": Parameter(NOT_NEGATIVE, doc="λ as a share of the mean eigenvalue"),
}
"""Parameters of inverses by name, the same in every inverse; a value is a formula."""
