"""What scores mean, in words: their formula, their sign, their inverse, and what was said while they were computed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.attribution.streams.reduced import CompressedQueries, ReducedPrecision
from curvlang.ir.score_program import solves_of
from curvlang.language import default_inverse
from curvlang.language.chain import ScoreFormula
from curvlang.models.losses.metric import QueryMetric
from curvlang.models.task import Task
from curvlang.operators.iterative.iteration import NotConverged
from curvlang.runtime.fitted import FittedOperator
from curvlang.score_words import Scoring
from curvlang.version import VERSION

NOTED = {
    ReducedPrecision: "precision",
    CompressedQueries: "precision",
    NotConverged: "solver",
}
"""Warnings that become notes of the scores, and under which word; others are shown as they come."""


def notes_of(
    scoring: Scoring, op: FittedOperator, name: str, task: Task, asked: QueryMetric
) -> dict[str, str]:
    """What the numbers mean, as it stands in the file where the format has a place for it."""
    if scoring.own:
        formula = "score[n] = ∇ℓ_nᵀ C⁻¹ ∇ℓ_n"
        sign = "never negative where C⁻¹ is positive semidefinite"
    else:
        formula = "score[q,n] = ∇m_qᵀ C⁻¹ ∇ℓ_n"
        sign = f"positive: {asked.sign}"
    notes = {
        "curvature": name,
        "task": repr(task),
        "parameters": task.origin.text,
        "convention": f"{formula}, not divided by N",
        "sign": sign,
        "metric": asked.name,
        "inverse": _inverse_text(scoring, op),
        "curvlang": VERSION,
    }
    if scoring.per_token:
        notes["tokens"] = "training example n has the tokens offsets[n] to offsets[n + 1] - 1"
    if scoring.group is not None:
        notes["groups"] = f"queries by {scoring.group}, {scoring.reduce}"
    return notes


def _inverse_text(scoring: Scoring, op: FittedOperator) -> str:
    """The inverse that is used, with every parameter's value."""
    if scoring.damping is not None:
        return f"(C + λI)⁻¹, λ = {scoring.damping:g}"
    if scoring.inverse is not None:
        return scoring.inverse
    rule = op.rule if op.rule is not None else default_inverse()
    where = "of the spec" if op.rule is not None else "default: λ = 0.1 × the mean eigenvalue"
    text = " ".join(rule.span.text.split()) if op.rule is not None else rule.inverse.name
    return f"{text} ({where})"


def noted(said: Sequence[warnings.WarningMessage]) -> dict[str, str]:
    """What was warned of while scores were computed, by the word that it stands under."""
    found: dict[str, list[str]] = {}
    for x in said:
        if x.category in NOTED:
            found.setdefault(NOTED[x.category], []).append(str(x.message))
        else:
            warnings.warn_explicit(x.message, x.category, x.filename, x.lineno)
    return {key: "; ".join(dict.fromkeys(texts)) for key, texts in found.items()}


def formula_notes(formula: ScoreFormula) -> dict[str, str]:
    """The formula in place of plain influence."""
    yields = formula.body[-1]
    found = {"score": formula.name, "convention": " ".join(yields.span.text.split())}
    if not solves_of(program_of(formula)):
        found["inverse"] = "none: the score does not solve"
    return found
