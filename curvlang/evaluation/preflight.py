"""All that can refuse an evaluation, asked before anything is trained, fitted or retrained.

Layers and memory, by the plans of every curvature; every inverse and the solver, on operators that have
the structure of the plans; the metric, the protocol, the baselines and the measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curvlang.attribution.curvature_free import check_baselines
from curvlang.attribution.formulas.formula_scores import with_queries
from curvlang.attribution.formulas.surroundings import check_surroundings
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import Span
from curvlang.evaluation.fidelity import Setting, settings
from curvlang.evaluation.ground_truth import check_retraining
from curvlang.evaluation.inverses.effort import too_long
from curvlang.evaluation.left_out import UnformedMatrix, unformed
from curvlang.evaluation.measures.tables import check_measures
from curvlang.evaluation.protocol import GRADIENTS_BY_PRODUCTS
from curvlang.evaluation.question import REFERENCE, Question, Run
from curvlang.ir.expr import Number
from curvlang.ir.score_program import solves_of
from curvlang.language import curvature_named
from curvlang.language.chain import Curvature, InverseUse, Part
from curvlang.models.arguments import placed
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.losses.metric import query_metric_on
from curvlang.models.task import Task
from curvlang.operators import ExampleMean, Operator
from curvlang.runtime.inverse import invert
from curvlang.runtime.limits.planned import planned, planned_solver
from curvlang.runtime.others import without_ignored
from curvlang.runtime.solver import FittedSolver


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What will be fitted.

    Args:
        curvatures: Those that have rows.
        reference: What errors are measured against; fitted beside them where it has no row.
        steps: Steps whose dense matrices are not formed.
    """

    curvatures: tuple[Curvature, ...]
    reference: Curvature
    steps: UnformedMatrix

    @property
    def fitted(self) -> tuple[Curvature, ...]:
        """Every curvature of the run, each once."""
        names = {c.name for c in self.curvatures}
        return (*self.curvatures, *(() if self.reference.name in names else (self.reference,)))

    @property
    def formed(self) -> tuple[Curvature, ...]:
        """Those that are fitted as they are."""
        return tuple(c for c in self.fitted if c.name not in self.steps.by_products)

    @property
    def multiplied(self) -> tuple[Curvature, ...]:
        """Those that are known by their products alone, unasked."""
        return tuple(c for c in self.fitted if c.name in self.steps.by_products)


def plan_of(question: Question, task: Task) -> Plan:
    """Which curvatures are fitted, and which steps are left out."""
    steps = unformed(question, task)
    kept = tuple(c for c in question.curvatures if c.name not in steps.absent)
    known = {c.name: c for c in kept}
    if question.reference is not None:
        reference = known.get(question.reference.name, question.reference)
    elif REFERENCE in steps.absent:
        reference = kept[0]
    else:
        reference = known.get(REFERENCE) or curvature_named(REFERENCE)
    return Plan(kept, reference, steps)


@kept_streams()
def check(question: Question, fresh: Task, run: Run) -> Plan:
    """Refuse what cannot be evaluated, at no cost beyond a few examples.

    Args:
        question: What is compared.
        fresh: The task; its model need not be trained.
        run: How it is evaluated.

    Returns:
        What will be fitted, whatever the parameters of the trained model.

    Raises:
        SpecError: For a metric, a protocol, a baseline or a measure that the task does not have, a
            curvature that does not fit the model, an inverse that no curvature has.
        MachineError: Where a plan needs more memory than there is.
    """
    task = without_ignored(question.chains(), fresh.to(precision=run.precision))
    query_metric_on(question.metric, task)
    if run.protocol is not None:
        check_retraining(fresh, run.protocol, run.seed, question.metric, run.executor)
    elif question.baselines:
        raise _without_protocol(question.baselines[0].span)
    if question.score is not None:
        check_surroundings(question.score, with_queries(question.score), fresh)
    check_baselines(question.baselines, fresh, question.metric)
    check_measures(question.measures, fresh)
    plan = plan_of(question, task)
    found = dict(zip((c.name for c in plan.formed), planned(plan.formed, task), strict=True))
    solver = planned_solver(question.solver, task)
    subjects = {name: x for name, x in found.items() if name in question.subjects}
    queries = (run.protocol.queries if run.protocol is not None else None) or task.Q
    for use in question.inverses:
        chosen = settings(use, question.sweep)
        work = len(chosen) * (queries + GRADIENTS_BY_PRODUCTS) * task.N
        _check_inverse(chosen, subjects, solver, work)
    for part in question.baselines:
        if part.curvature is not None:
            with placed(part.span):
                _check_solved(
                    part, question, task, solver, (queries + GRADIENTS_BY_PRODUCTS) * task.N
                )
    return plan


def _check_solved(
    part: Part, question: Question, task: Task, solver: FittedSolver | None, work: int
) -> None:
    """Refuse a score whose curvature has none of the inverses or functions that it applies."""
    assert part.score is not None
    assert part.curvature is not None
    (operator,) = planned((part.curvature,), task)
    for function in part.score.functions.values():
        numbers = {name: Number(1.0) for name in function.parameters}
        try_inverse(operator, Setting(InverseUse(function, numbers, part.span)), solver)
    if not solves_of(with_queries(part.score)):
        return
    own = question.inverses if part.inverse is None else (part.inverse,)
    for use in own:
        chosen = settings(use, question.sweep)
        _check_inverse(chosen, {part.name: operator}, solver, len(chosen) * work)


def _check_inverse(
    chosen: Sequence[Setting],
    subjects: Mapping[str, Operator],
    solver: FittedSolver | None,
    work: int,
) -> None:
    """Refuse an inverse that no curvature has at any setting: with the reason of the last one."""
    problem: SpecError | None = None
    for name, operator in subjects.items():
        try:
            reason = too_long(operator, solver, work)
            if reason:
                raise no_scores(name, reason, operator.spectrum_known)
            for setting in chosen:
                try_inverse(operator, setting, solver)
        except SpecError as error:
            problem = error
        else:
            return
    if problem is not None:
        raise problem


def try_inverse(operator: Operator, setting: Setting, solver: FittedSolver | None) -> None:
    """Invert an operator that has a structure and no numbers.

    Raises:
        SpecError: Where the structure does not allow the inverse or the solver.
    """
    invert(
        operator,
        setting.use,
        solver,
        by_example=ExampleMean(1, lambda _: operator, lambda: iter(())),
    )


def no_scores(name: str, reason: str, spectrum_known: bool, span: Span | None = None) -> SpecError:
    """A curvature in question has no scores where all are compared."""
    solved = (
        f"write `evaluate {name} with tikhonov(damping = 0.1) on … {{ solve cg }}` into a "
        "spec; `curvlang eval SPEC --verbose` shows what it took"
    )
    return refusal(
        Code.E0506,
        f"`{name}` has no scores at the shared setting: {reason}",
        "use a larger damping, or another inverse" if spectrum_known else solved,
        labels=() if span is None else label_at(span, "this stage"),
    )


def _without_protocol(span: Span) -> SpecError:
    return refusal(
        Code.E0510,
        "baselines are judged by the LDS, and there is no protocol",
        "leave out the baselines, or state a protocol",
        labels=label_at(span),
    )
