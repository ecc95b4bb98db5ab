"""Baselines that are formulas: their scores under every inverse of an evaluation, or under their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from curvlang.attribution.formulas.formula_scores import with_queries
from curvlang.attribution.formulas.surroundings import surroundings
from curvlang.diagnostics.source import NOWHERE
from curvlang.evaluation.fidelity import Fidelity, Scoring, Setting, scored_alone, settings
from curvlang.evaluation.inverses.elsewhere import curvatures_elsewhere, stages_of
from curvlang.evaluation.preflight import plan_of
from curvlang.evaluation.question import Question, Run
from curvlang.ir.score_program import ScoreProgram, solves_of
from curvlang.language.chain import Part
from curvlang.models.execution.widened import accumulation_dtype
from curvlang.models.task import Task
from curvlang.operators import Identity
from curvlang.runtime.fit import FittedStage

Columns = Sequence[Sequence[Setting]]
"""The settings of every inverse of an evaluation."""


def formula_cells(
    part: Part,
    asked: tuple[Question, Run],
    columns: Columns,
    scoring: Callable[[Sequence[Setting]], Scoring],
    known: Sequence[FittedStage],
) -> list[list[Fidelity]]:
    """Scores of a formula, `[inverse][setting]`.

    A score that solves is taken at every setting, one with an inverse of its own, or none, once.

    Args:
        part: The baseline.
        asked: The evaluation, and how it is run.
        columns: The settings of its inverses.
        scoring: What is scored at some settings.
        known: Fitted curvatures of the evaluation: one of them is not fitted again.
    """
    assert part.score is not None
    program = with_queries(part.score)
    given = _given(part, program, asked, scoring)
    stage = _stage(part, given.task, asked, known)
    if part.inverse is None and solves_of(program):
        return [scored_alone(stage, replace(given, chosen=column)) for column in columns]
    # Where no inverse is applied, any will do.
    (one,) = scored_alone(stage, replace(given, chosen=settings(part.inverse, (1.0,))))
    return [[one] * len(column) for column in columns]


def _given(
    part: Part,
    program: ScoreProgram,
    asked: tuple[Question, Run],
    scoring: Callable[[Sequence[Setting]], Scoring],
) -> Scoring:
    """What is scored, with the other models that the formula reads and the curvature there."""
    assert part.score is not None
    given = scoring(())
    around = surroundings(part.score, program, given.task)
    elsewhere = {}
    if around.fitted_at:
        question, run = _alone(part, asked[0]), asked[1]
        elsewhere = curvatures_elsewhere(question, plan_of(question, given.task), around, run)
    return replace(given, program=program, around=around, elsewhere=elsewhere)


def _stage(
    part: Part, task: Task, asked: tuple[Question, Run], known: Sequence[FittedStage]
) -> FittedStage:
    """The curvature of the formula at the evaluated model; the identity where it has none."""
    curvature = part.curvature
    if curvature is None:
        one = torch.ones((), dtype=accumulation_dtype(task.device), device=task.device)
        return FittedStage(part.name, part.name, Identity(one, task.P), {}, 0, NOWHERE)
    if curvature in asked[0].curvatures:
        return next(x for x in known if x.label == curvature.name)
    question = _alone(part, asked[0])
    return stages_of(plan_of(question, task), task, asked[1])[curvature.name]


def _alone(part: Part, question: Question) -> Question:
    """The curvature of a baseline as if it alone were evaluated."""
    curvature = part.curvature
    assert curvature is not None
    return replace(
        question,
        curvatures=(curvature,),
        path=1,
        subjects=frozenset({curvature.name}),
        reference=curvature,
        baselines=(),
        measures=(),
    )
