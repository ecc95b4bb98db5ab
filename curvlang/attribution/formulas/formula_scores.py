"""Scores of a formula, whole: of a fitted curvature, or under several inverses for an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curvlang.attribution.formulas.curvatures import (
    FittedElsewhere,
    InverseElsewhere,
    check_held,
    fits_elsewhere,
    refitted,
)
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import Point, Points
from curvlang.attribution.formulas.surroundings import Surroundings, stated_models, surroundings
from curvlang.attribution.gradients import check_scores
from curvlang.attribution.indexed.contents import check_stated
from curvlang.attribution.indexed.gradient_index import GradientIndex
from curvlang.attribution.inverses import inverted
from curvlang.attribution.scorer import collected, counter, refused_alone, require_scores
from curvlang.attribution.streams.batch import ready
from curvlang.attribution.streams.gather import gathered
from curvlang.attribution.streams.request import Request
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.values import another_type
from curvlang.ir.score_lowering import score_program
from curvlang.ir.score_program import Product, ScoreProgram, gradient_of, solves_of
from curvlang.language import score_text
from curvlang.language.chain import ScoreFormula
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.operators import Identity, Operator
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.progress.listeners import Progress

Score = str | ScoreFormula | None
"""A score as a spec writes it, one of a spec, or the one that the curvature's spec names."""


def formula_of(operator: FittedOperator | Operator, score: Score) -> ScoreFormula | None:
    """The formula of scores; None for plain influence.

    Args:
        operator: A fitted curvature, whose spec may name a score and declare others.
        score: What was asked for.

    Raises:
        SpecError: E0563 for something else than a score, E0240 for an unknown one.
    """
    fitted = operator if isinstance(operator, FittedOperator) else None
    if score is None:
        found = None if fitted is None else fitted.score
    elif isinstance(score, str):
        found = score_text(score, "<score>", "" if fitted is None else fitted.declared)
    elif isinstance(score, ScoreFormula):
        found = score
    else:
        raise another_type("score", score, "a score", '`"relatif"`, or `spec.scores["mine"]`')
    if found is None or is_plain(program_of(found)):
        # An index has a formula for plain influence too: it is arithmetic of what is kept.
        return plain_formula() if isinstance(operator, GradientIndex) else None
    return found


def plain_formula() -> ScoreFormula:
    """Plain influence as a formula."""
    return score_text("influence", "<score>")


def program_of(formula: ScoreFormula) -> ScoreProgram:
    """What a formula is computed by."""
    return score_program(formula.needs, formula.body)


def is_plain(program: ScoreProgram) -> bool:
    """Whether a score is `∇m_qᵀ C⁻¹ ∇ℓ_n` and nothing else."""
    match tuple(program.assignments.values()):
        case (Product(name=name, left=left, right=right, indices=indices),):
            alone = getattr(program.value, "name", "") == name
            sides = gradient_of(left), None if right is None else gradient_of(right)
            return alone and sides == (("u", 1), ("v", 0)) and len(indices) == 2
        case _:
            return False


def check_formula(formula: ScoreFormula, request: Request) -> None:
    """Refuse options that scores of a formula do not have.

    Raises:
        SpecError: E0426.
    """
    for option in ("per_layer", "per_position", "per_token", "products", "compress"):
        if getattr(request, option) not in (False, None):
            raise no_option(formula, option)


def no_option(formula: ScoreFormula, option: str) -> SpecError:
    """The refusal of an option that scores of a formula do not have."""
    return refusal(
        Code.E0426,
        f"scores of the formula `{formula.name}` have no `{option}`",
        f"leave `{option}` out, or score by `influence`, which has it",
        labels=label_at(formula.span, "this score"),
    )


def with_queries(formula: ScoreFormula) -> ScoreProgram:
    """The program of a formula that has a score for every query.

    Raises:
        SpecError: E0430 for one of training examples alone.
    """
    program = program_of(formula)
    if not program.pairs:
        raise refusal(
            Code.E0430,
            f"the score `{formula.name}` is of training examples alone, without queries",
            "yield a number for every query: `yield s[q,n] = …`; all its scores are in "
            f'`cv.influence(op, task, score="{formula.name}")`',
            labels=label_at(formula.span, "this score"),
        )
    return program


@dataclass(frozen=True, slots=True)
class InverseRequest:
    """Which inverse is asked for; every name means what it means in `influence`."""

    damping: float | None = None
    inverse: str | None = None
    solve: str | None = None
    progress: Progress | None = None


def check_inverse_used(formula: ScoreFormula, asked: InverseRequest) -> None:
    """Refuse an inverse that a formula has no use for.

    Raises:
        SpecError: E0426.
    """
    if not solves_of(program_of(formula)):
        for option in ("damping", "inverse", "solve"):
            if getattr(asked, option) is not None:
                raise no_option(formula, option)


def formula_points(
    formula: ScoreFormula,
    operator: FittedOperator | Operator,
    task: Task,
    asked: InverseRequest,
    around: Surroundings | None = None,
) -> Points:
    """The model with the inverse of its curvature; without one where the formula does not solve.

    Args:
        formula: The score.
        operator: A fitted curvature; with an index what it keeps of the training examples.
        task: Queries and training examples.
        asked: Which inverse.
        around: The other models that the score reads; trained or read here where not given.

    Raises:
        SpecError: E0426 for an inverse that the formula has no use for, E0763 for an index of other scores.
    """
    program = program_of(formula)
    if isinstance(operator, GradientIndex):
        kept = operator.chunks(formula, program, task.device)
        check_stated(operator.store.path, kept.contents, stated_models(program, task))
        whole = operator.replaced(solver=operator.solver)
        near = replace(operator.around(kept, task), functions=formula.functions)
        known = formula_points(formula, whole, task, asked, near)
        return operator.points(known, kept)

    def inverse_of(fitted: FittedOperator | Operator, of: Task) -> Operator:
        return inverted(
            fitted,
            of,
            damping=asked.damping,
            inverse=asked.inverse,
            solve=asked.solve,
            progress=asked.progress,
        ).operator

    if (program.solved_at | program.applied_at) - {()}:
        refitted(formula, operator)
    if not solves_of(program):
        check_inverse_used(formula, asked)
    fitted = operator
    if not isinstance(fitted, FittedOperator):
        fitted = FittedOperator(fitted, task.parameters)
    if around is None:
        # Before anything is trained.
        count = len(fits_elsewhere(program, task))
        check_held(fitted, count, count)
        around = surroundings(formula, program, task)
    if solves_of(program):
        inverse = inverse_of(operator, task)
    else:
        inner = fitted.operator
        one = torch.ones((), dtype=inner.dtype, device=inner.device)
        inverse = Identity(one, task.P)
    elsewhere = None
    if around.fitted_at:
        fits = FittedElsewhere(refitted(formula, operator), len(around.fitted_at))
        elsewhere = InverseElsewhere(fits, inverse_of)
    return around.points(Point(task, inverse, fitted=fitted), elsewhere)


def formula_scores(program: ScoreProgram, points: Points, cost: Loss, request: Request) -> Tensor:
    """All scores of a formula, [Q, N] or [N], in every process.

    Raises:
        MachineError: E0801 for scores that do not fit into memory, before anything is computed.
    """
    task = points.final.task
    rows = request.rows(task) if program.pairs else 1
    require_scores(task, rows, task.N, gradients=False)
    stream = FormulaStream(program, points, cost, request)
    if program.pairs:
        found = collected(stream)[""]
    else:
        told = counter(request.progress, task.N)
        source = ready(stream, 0)
        (parts,) = gathered(
            lambda within: [source(within)], stream.cut, task.device, axis=0, told=told
        )
        found = parts[""]
    check_scores([found], task, cost)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class FormulaScorer:
    """Scores of one set of queries under several inverses, some queries at a time.

    Args:
        program: The formula's program; it has a score for every query.
        points: The model and its checkpoints under each inverse.
        cost: What the queries are scored by.
        progress: Notified how many training examples are scored.
    """

    program: ScoreProgram
    points: Sequence[Points]
    cost: Loss
    progress: Progress | None = None

    def __iter__(self) -> Iterator[list[Tensor | SpecError]]:
        """Scores `[B, N]` of consecutive queries under every inverse; a refusal in place of some."""
        request = Request()
        plain = [FormulaStream(self.program, x, self.cost, request) for x in self.points]
        turn = min((x.turn for x in plain), default=1)
        streams = [
            FormulaStream(self.program, x, self.cost, request, turn=turn) for x in self.points
        ]
        if not streams:
            return
        turns = streams[0].turns
        told = counter(self.progress, streams[0].task.N * turns * len(streams))
        for number in range(turns):
            found: list[Tensor | SpecError] = []
            for stream in streams:
                source = stream.source(number)
                (part,) = gathered(
                    lambda within, of=source: [of(within)],  # type: ignore[misc]
                    stream.cut,
                    stream.task.device,
                    told=told,
                )
                found.append(refused_alone(part[""], stream.task, self.cost))
            yield found
