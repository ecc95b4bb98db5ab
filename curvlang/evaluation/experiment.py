"""The engine: one trained model evaluated, for `curvlang eval` and for a cell of a study alike.

Curvatures are fitted in one run, scored under every inverse, and judged by models that are retrained
last: what has no scores costs no retraining. `preflight.check` comes before all of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from curvlang.attribution import curvature_free as baselines
from curvlang.attribution.formulas.curvatures import FittedElsewhere
from curvlang.attribution.formulas.formula_scores import is_plain, with_queries
from curvlang.attribution.formulas.surroundings import ALONE, Surroundings, surroundings
from curvlang.compiler.derive.derive import describe_value
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.errors import Estimate
from curvlang.evaluation.fidelity import (
    Fidelity,
    Scoring,
    Setting,
    forward_errors,
    measure,
    scores_at,
    settings,
    without_inverse,
)
from curvlang.evaluation.ground_truth import GroundTruth, ground_truth
from curvlang.evaluation.inverses.baselines import formula_cells
from curvlang.evaluation.inverses.elsewhere import curvatures_elsewhere, stages_of
from curvlang.evaluation.judge import judge
from curvlang.evaluation.left_out import notes_of
from curvlang.evaluation.measures.grid import MeasureInput, MeasureTable
from curvlang.evaluation.measures.tables import measure_tables
from curvlang.evaluation.preflight import Plan, no_scores
from curvlang.evaluation.protocol import GRADIENTS_BY_PRODUCTS, LDS
from curvlang.evaluation.question import Question, Run
from curvlang.evaluation.result import Result
from curvlang.evaluation.retraining.truth_request import members
from curvlang.evaluation.steps import Column, baseline_steps, steps_of
from curvlang.evaluation.summary import protocol_as_run, summary
from curvlang.ir.score_program import ScoreProgram
from curvlang.language import default_inverse
from curvlang.language.chain import InverseUse, Part, ScoreFormula, Solver
from curvlang.language.checking.inverses import shift
from curvlang.language.registry import NONE
from curvlang.models.losses.metric import QueryMetric, query_metric_on
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.combine import fit_all, fit_solver
from curvlang.runtime.fit import FittedStage
from curvlang.runtime.inverse import unstructured
from curvlang.runtime.others import without_ignored
from curvlang.runtime.processes.in_step import in_step
from curvlang.runtime.solver import FittedSolver
from curvlang.version import VERSION
from curvlang.workers.executor import Execution


class Clock:
    """Seconds by name of what was done under it."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a name."""
        start = time.perf_counter()
        yield
        self.times[name] = self.times.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """A trained model with its fitted curvatures: what inverses are scored on.

    Args:
        base: The trained task in the precision of training.
        task: The same in the precision of the analysis, as the curvatures see it.
        stages: Fitted curvatures, one for each row.
        goal: What errors are measured against.
        goal_label: What it is called.
        solver: The solver with its preconditioner fitted.
        unasked: Labels of stages known by products alone that are there to be compared with.
    """

    base: Task
    task: Task
    stages: tuple[FittedStage, ...]
    goal: Operator
    goal_label: str
    solver: FittedSolver | None = None
    unasked: frozenset[str] = frozenset()

    def decomposed(self) -> Bench:
        """Matrices without structure as Q diag(s) Qᵀ, once for all inverses; the reference stays it."""
        made: dict[int, Operator] = {}

        def form(operator: Operator) -> Operator:
            if not (operator.spectrum_known and unstructured(operator)):
                return operator
            if id(operator) not in made:
                made[id(operator)] = operator.spectral_form()
            return made[id(operator)]

        stages = tuple(replace(s, operator=form(s.operator)) for s in self.stages)
        return replace(self, stages=stages, goal=form(self.goal))


@dataclass(slots=True, eq=False)
class Outcome:
    """What an evaluation found: a result for every inverse, and what they were made from.

    Args:
        results: One for each inverse.
        columns: Scores and LDS of every row under each inverse.
        bench: The fitted curvatures, dense matrices decomposed.
        protocol: How models were retrained, with as many subsets as there were; None without.
        truth: Retrained models.
        measures: Ground truths beyond the LDS, each `[inverse][curvature][setting]`.
        times: Seconds of each part.
        problem: Why no curvature in question has scores; None where it has.
    """

    results: tuple[Result, ...]
    columns: tuple[Column, ...]
    bench: Bench
    protocol: LDS | None
    truth: GroundTruth | None
    measures: dict[str, tuple[MeasureTable, ...]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    problem: SpecError | None = None

    @property
    def result(self) -> Result:
        """The result under the first inverse."""
        return self.results[0]

    @property
    def step_scores(self) -> dict[str, NDArray[np.float64]]:
        """Scores `[Q, N]` under the first inverse at the shared setting, by row; of rows that have any."""
        column = self.columns[0]
        found = scores_at(column.cells, column.shared)
        return {
            stage.label: x.cpu().numpy()
            for stage, x in zip(self.bench.stages, found, strict=False)
            if x is not None
        }

    @property
    def scores(self) -> NDArray[np.float64] | None:
        """`[Q, N]` of the last curvature, likewise; None where it has none."""
        return self.step_scores.get(self.bench.stages[-1].label)


def experiment(question: Question, base: Task, run: Run, plan: Plan) -> Outcome:
    """Fit, score, retrain and judge.

    Args:
        question: What is compared.
        base: The trained task in the precision of training.
        run: How.
        plan: What is fitted: of `preflight.check`.

    Raises:
        SpecError: Where a curvature does not fit the model, or training diverges.
    """
    clock = Clock()
    task = without_ignored(question.chains(), base.to(precision=run.precision))
    asked = query_metric_on(question.metric, task)
    with clock("fit"):
        bench = _fitted(question, plan, base, task, run)
    # A solver is for matrices without structure: then they stay as they are.
    inverted = question.inverses and question.solver is None
    ready = bench.decomposed() if inverted else bench
    kept = None if run.protocol is None else members(base, run.protocol)
    with clock("scores and errors"):
        around = _around(question.score, ready.task)
        elsewhere = curvatures_elsewhere(question, plan, around, run)
    work = _Work(question, run, ready, asked, kept, around, elsewhere)
    with clock("scores and errors"), in_step():
        columns = work.columns()
        forwards = forward_errors(bench.stages, bench.goal, work.scoring(()))
    problem = work.problem(columns)
    truth, protocol = None, run.protocol
    if protocol is not None and problem is None:
        with clock("baselines"):
            columns = work.with_baselines(columns)
        with clock("ground truth"):
            truth = ground_truth(
                base,
                protocol,
                run.seed,
                metric=question.metric,
                cache=run.cache,
                execution=Execution(run.executor, run.progress),
            )
        protocol = replace(protocol, subsets=len(truth.kept))
        with clock("LDS"):
            columns = [_judged(c, truth, protocol, work.rows, run) for c in columns]
    with clock("measures"):
        measures = work.measures() if problem is None else {}
    notes = (*question.notes, *_scored_by(question.score), *_notes(asked, plan, bench))
    if run.protocol is not None and truth is None:
        protocol = None
        notes = (*notes, "nothing was retrained, since no curvature in question has scores")
    parts = _Parts(question, bench, forwards, protocol, work.rows, notes)
    results = tuple(
        parts.result(c, {name: tables[k] for name, tables in measures.items()})
        for k, c in enumerate(columns)
    )
    return Outcome(results, tuple(columns), ready, protocol, truth, measures, clock.times, problem)


def _fitted(question: Question, plan: Plan, base: Task, task: Task, run: Run) -> Bench:
    """Every curvature of the plan, fitted in one run."""
    fitted = stages_of(plan, task, run)
    goal = fitted[plan.reference.name]
    return Bench(
        base,
        task,
        tuple(fitted[c.name] for c in plan.curvatures),
        goal.operator,
        goal.label,
        fit_solver(question.solver, task, seed=run.seed),
        frozenset(plan.steps.by_products),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """The parts of an evaluation after its curvatures are fitted."""

    question: Question
    run: Run
    bench: Bench
    asked: QueryMetric
    kept: Tensor | None
    around: Surroundings
    elsewhere: Mapping[str, FittedElsewhere] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many queries are scored."""
        return self.scoring(()).rows

    def scoring(self, chosen: Sequence[Setting], shared: int | None = None) -> Scoring:
        """What is scored at some settings; scores of the shared one are wanted in any case."""
        protocol, bench = self.run.protocol, self.bench
        return Scoring(
            task=bench.task,
            cost=self.asked.cost,
            chosen=chosen,
            queries=None if protocol is None else protocol.queries,
            seed=self.run.seed,
            solver=bench.solver,
            kept=self.kept,
            shared=shared if self.kept is None else None,
            unasked=bench.unasked,
            progress=self.run.progress,
            program=_program(self.question.score),
            around=self.around,
            elsewhere=self.elsewhere,
        )

    def columns(self) -> list[Column]:
        """Every curvature at every setting of every inverse."""
        found = []
        for use in self.question.inverses:
            chosen = settings(use, self.question.sweep)
            shared = plain_shared(chosen, self.bench)
            cells = measure(self.bench.stages, self.bench.goal, self.scoring(chosen, shared))
            found.append(Column(use, chosen, cells, None, shared))
        return found or [Column.without_inverse(len(self.bench.stages))]

    def problem(self, columns: Sequence[Column]) -> SpecError | None:
        """Why no curvature in question has scores under any inverse; None where one has."""
        reason = None
        for column in columns:
            for stage, row in zip(self.bench.stages, column.cells, strict=True):
                if stage.label not in self.question.subjects:
                    continue
                if any(map(has_scores, row)):
                    return None
                note = row[column.shared].note
                reason = no_scores(stage.label, note, stage.operator.spectrum_known, stage.span)
        return reason

    def with_baselines(self, columns: Sequence[Column]) -> list[Column]:
        """The columns with a row for each baseline."""
        if not self.question.baselines:
            return list(columns)
        found = [self._baseline(part, columns) for part in self.question.baselines]
        return [
            replace(c, cells=[*c.cells, *(rows[k] for rows in found)])
            for k, c in enumerate(columns)
        ]

    def _baseline(self, part: Part, columns: Sequence[Column]) -> list[list[Fidelity]]:
        """Scores of a baseline, `[inverse][setting]`."""
        bench = self.bench
        if part.score is not None:
            chosen = [c.settings for c in columns]
            asked = self.question, self.run
            return formula_cells(part, asked, chosen, self.scoring, bench.stages)
        own = bench.base.origin.seed
        seed = self.run.seed if own is None else own
        given = baselines.Setting(bench.task, self.rows, seed)
        found = without_inverse(baselines.baseline_scores(part, given), self.kept)
        return [[found] * len(c.settings) for c in columns]

    def measures(self) -> dict[str, tuple[MeasureTable, ...]]:
        """Every measure under every inverse."""
        question, bench, run = self.question, self.bench, self.run
        if not question.measures:
            return {}
        curvatures = [c for c in question.curvatures if c.name in {s.label for s in bench.stages}]

        def fit(other: Task) -> tuple[FittedStage, ...]:
            stages = fit_all(curvatures, other, seed=run.seed)
            return replace(bench, stages=stages, goal=stages[0].operator).decomposed().stages

        given = MeasureInput(
            bench.base, bench.task, bench.stages, fit, (), run.seed, bench.solver, self.asked.cost
        )
        uses = [settings(use, question.sweep) for use in question.inverses]
        return measure_tables(question.measures, given, uses)


def _program(score: ScoreFormula | None) -> ScoreProgram | None:
    """What the scores of a formula are computed by; None for plain influence."""
    if score is None:
        return None
    program = with_queries(score)
    return None if is_plain(program) else program


def _around(score: ScoreFormula | None, task: Task) -> Surroundings:
    """The other models that a score reads, trained here."""
    program = _program(score)
    return ALONE if score is None or program is None else surroundings(score, program, task)


def has_scores(cell: Fidelity) -> bool:
    """Whether an inverse was not refused."""
    return any(x is not None for x in (cell.source, cell.predicted, cell.inverse))


def _judged(column: Column, truth: GroundTruth, protocol: LDS, queries: int, run: Run) -> Column:
    judgement = judge(column.cells, truth, protocol, queries, run.progress, folded=run.folded)
    return replace(column, judgement=judgement, shared=judgement.shared)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What the results of all inverses have in common."""

    question: Question
    bench: Bench
    forwards: list[Estimate | None]
    protocol: LDS | None
    queries: int
    notes: tuple[str, ...]

    def result(self, column: Column, measures: Mapping[str, MeasureTable]) -> Result:
        """The result under one inverse."""
        question, judgement = self.question, column.judgement
        stages = self.bench.stages
        path = min(question.path - len(question.curvatures) + len(stages), len(stages))
        labels = [s.label for s in stages[:path]]
        return Result(
            name=question.name,
            version=VERSION,
            reference=self.bench.goal_label,
            task=summary(self.bench.task, question.arguments),
            inverse=described(column.use, question.solver) if question.inverses else NONE,
            sweep=tuple(s.damping for s in column.settings if s.damping is not None),
            protocol=protocol_as_run(self.protocol, self.queries),
            ceiling=judgement.ceiling if judgement else None,
            steps=(
                *steps_of(stages, column, self.forwards, path),
                *baseline_steps(question.baselines, column),
            ),
            comparisons=judgement.comparisons(labels) if judgement else (),
            notes=(*self.notes, *_measured(measures, column, stages)),
        )


def _measured(
    measures: Mapping[str, MeasureTable], column: Column, stages: Sequence[FittedStage]
) -> Iterator[str]:
    """Measures at the shared setting, a line each, and why some are missing."""
    damping = column.settings[column.shared].damping
    at = "" if damping is None else f" at λ = {damping:g}"
    for name, table in measures.items():
        values = [
            f"`{stage.label}` {x.estimate:.3f}"
            + (f" [{x.low:.3f}, {x.high:.3f}]" if x.has_ends else "")
            for stage, row in zip(stages, table.values, strict=True)
            if (x := row[column.shared]) is not None
        ]
        if values:
            yield f"{name}{at}: {', '.join(values)}"
        yield from (f"{name}: {note}" for note in table.notes)


def _scored_by(score: ScoreFormula | None) -> Iterator[str]:
    """What the scores are, where they are not plain influence."""
    if score is not None:
        given = ", ".join(f"{name} = {describe_value(x)}" for name, x in score.arguments.items())
        name = f"{score.name}({given})" if given else score.name
        yield f"scores are those of `{name}`{f': {score.doc}' if score.doc else ''}"


def _notes(asked: QueryMetric, plan: Plan, bench: Bench) -> tuple[str, ...]:
    metric = f"the metric of the queries is their {asked.name}: positive where {asked.sign}"
    return (
        *((metric,) if asked.name != "loss" else ()),
        *notes_of(plan.steps, bench.goal_label),
        *product_notes(bench.stages),
        *dict.fromkeys(stage.note for stage in bench.stages if stage.note),
    )


def described(inverse: InverseUse | None, solver: Solver | None) -> str:
    """The inverse as the spec writes it, or as the default stands in the prelude."""
    use = inverse if inverse is not None else default_inverse()
    text = (
        " ".join(use.span.text.split()) if inverse is not None else f"{use.inverse.name} (default)"
    )
    if use.damping_open:
        text += ": (C + λI)⁻¹" if shift(use.inverse) is not None else ""
    return text if solver is None else f"{text}, solved by {' '.join(solver.span.text.split())}"


def plain_shared(chosen: Sequence[Setting], bench: Bench) -> int:
    """Without LDS: the λ of the sweep nearest to a tenth of the mean size of an eigenvalue.

    Of the reference, or of the last curvature where the reference is known by its products alone.
    """
    known = [x for x in (bench.goal, bench.stages[-1].operator) if x.spectrum_known]
    if len(chosen) <= 1 or not known:
        return len(chosen) // 2
    target = 0.1 * float(known[0].eigenvalues().abs().mean())
    logs = [abs(np.log(s.damping or 1e-300) - np.log(max(target, 1e-300))) for s in chosen]
    return int(np.argmin(logs))


def product_notes(stages: Sequence[FittedStage]) -> tuple[str, ...]:
    """What is said of stages that are known by their products alone."""
    unknown = [s.label for s in stages if not s.operator.spectrum_known]
    if not unknown:
        return ()
    names = ", ".join(f"`{x}`" for x in unknown)
    return (
        f"the inverse error is averaged over at most {GRADIENTS_BY_PRODUCTS} gradients: known by "
        f"products alone are {names}",
    )
