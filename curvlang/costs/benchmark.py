"""What a curvature costs on this machine: every stage from plan to scores, predicted and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from curvlang.attribution.blocks import scored_blocks
from curvlang.attribution.scorer import scored_by
from curvlang.compiler.planning.cost import Cost
from curvlang.compiler.planning.plan import Limits
from curvlang.costs.formulas import form_of, predicted_influence
from curvlang.costs.predicted import (
    StagePrediction,
    inverted_matrices,
    predicted_fit,
    predicted_in_passes,
    predicted_inverse,
)
from curvlang.costs.rates import MOST, TIMES, Rates, Watch, clock, measured_rates
from curvlang.costs.score_footprint import inverse_phase, scores_phase, with_passes
from curvlang.language.chain import Chain, Curvature, InverseUse, Solver
from curvlang.language.sums import weighted_chains
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.operators.iterative.iteration import SolveRecord
from curvlang.runtime.combine import fit_curvature, fit_solver
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.inverse import unstructured
from curvlang.runtime.others import without_ignored
from curvlang.runtime.passes.entries import fit_limits
from curvlang.runtime.prepare import Preparation, prepare

WARM = 4
"""Examples of the runs that tell what a stage takes however few examples there are."""
CALIBRATED = 5.0
"""Seconds up to which a run on these is repeated."""


Fitted = tuple[Operator, Operator, float]
"""A curvature, its inverse, and the products that a solve of all queries has asked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """A stage. Seconds and bytes of memory that cannot be predicted are None.

    `moved` are bytes read and written by generated code; `memory` and `peak` bytes held at most.
    """

    stage: str
    flops: int
    moved: int
    seconds: float | None
    measured: float
    memory: int | None
    peak: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """All stages of a run, the machine's rates, and how far other work disturbed it.

    `disturbed` is the share of its time that the process waited for a processor.
    """

    name: str
    task: str
    rows: tuple[Row, ...]
    rates: Rates
    disturbed: float

    @property
    def predicted(self) -> float:
        """Seconds of the stages that have a prediction."""
        return sum(r.seconds for r in self.rows if r.seconds is not None)

    @property
    def measured(self) -> float:
        """Seconds of the same stages, as they were."""
        return sum(r.measured for r in self.rows if r.seconds is not None)


def benchmark(
    curvature: Curvature,
    task: Task,
    *,
    inverse: InverseUse | None = None,
    solver: Solver | None = None,
    seed: int = 0,
) -> Benchmark:
    """Fit a curvature, invert it, score all queries; predict every stage, and measure it.

    Args:
        curvature: A chain or a combination.
        task: Model and data; whether the model is trained makes no difference to the cost.
        inverse: The spec's; the default where not given.
        solver: The spec's, for matrices without structure.
        seed: Of sampled labels.
    """
    task = without_ignored([c for _, c in weighted_chains(curvature)], task)
    rates = measured_rates(task.device, policy=task.policy)
    run = _Run(curvature, inverse, solver, seed)
    beyond = _beyond(run, _small(task), rates)
    prepared = prepare(run.chains, task, last=True, limits=run.limits)
    watch = Watch(task.device)
    operators = run(task, watch)
    predicted = _predicted(prepared, task, operators, rates, solved=run.solves(operators[0]))
    fitted, inverted, _ = operators
    scored = scores_phase(fitted, inverted, scored_blocks(inverted, task), task)
    if inverse is not None and inverse.inverse.entries is not None:
        predicted["scores"] = predicted_in_passes(inverse.inverse.entries, prepared, task, rates)
        scored = with_passes(scored, task)
    phases = (
        *prepared.phases,
        inverse_phase(fitted, inverted, inverted_matrices(fitted, inverted)),
        scored,
    )
    held = {phase.name: phase.bytes for phase in phases}
    rows = tuple(
        _row(stage, predicted.get(stage), beyond.get(stage, 0.0), watch, held)
        for stage in watch.seconds
    )
    return Benchmark(curvature.name, repr(task), rows, rates, watch.disturbed)


def _predicted(
    prepared: Preparation,
    task: Task,
    operators: Fitted,
    rates: Rates,
    *,
    solved: bool,
) -> dict[str, StagePrediction]:
    """Every stage that has a prediction, `solved` by products."""
    fitted, inverted, products = operators
    found = {p.name: p for p in predicted_fit(prepared, task, rates)}
    if not solved:
        found["inverse"] = predicted_inverse(fitted, inverted, rates)
    each = products / task.Q if products else None
    found["scores"] = predicted_influence(form_of(inverted, task, each), task, rates)
    return found


def _beyond(run: _Run, task: Task, rates: Rates) -> dict[str, float]:
    """Seconds of every stage beyond its prediction on a few examples, in one batch.

    A first run loads what is loaded on first use. Where it takes long, its products are what counts,
    and it is not run again.
    """
    start = clock(task.device)
    run(task, lambda stage: None)
    if clock(task.device) - start > CALIBRATED:
        return {}
    seconds, operators = _least(run, task)
    prepared = prepare(run.chains, task, last=True, limits=run.limits)
    predicted = _predicted(prepared, task, operators, rates, solved=run.solves(operators[0]))
    return {
        name: max(0.0, seconds[name] - (told.seconds or 0.0))
        for name, told in predicted.items()
        if name in seconds
    }


def _least(run: _Run, task: Task) -> tuple[dict[str, float], Fitted]:
    """The least seconds of every stage, of some runs: one alone may have waited for a processor."""
    seconds: dict[str, float] = {}
    spent = 0.0
    for _ in range(TIMES):
        watch = Watch(task.device)
        operators = run(task, watch)
        seconds = {k: min(v, seconds.get(k, v)) for k, v in watch.seconds.items()}
        spent += watch.total
        if spent > MOST:
            break
    return seconds, operators


@dataclass(frozen=True, slots=True)
class _Stages:
    """Reports the stages of a fit, and none of its batches."""

    ended: Callable[[str], None]

    def __call__(self, what: str, done: int, total: int) -> None:
        """A batch."""


@dataclass(frozen=True, slots=True)
class _Run:
    """All stages on a task; each is reported when it ends."""

    curvature: Curvature
    inverse: InverseUse | None
    solver: Solver | None
    seed: int

    @property
    def chains(self) -> list[Chain]:
        """The chains that are fitted."""
        return [chain for _, chain in weighted_chains(self.curvature)]

    def solves(self, fitted: Operator) -> bool:
        """Whether a solver stands in for the inverse of a curvature."""
        return self.solver is not None and unstructured(fitted)

    @property
    def limits(self) -> Limits:
        """Of the plan, as a fit has them."""
        return fit_limits(self.inverse, self.curvature)

    def __call__(self, task: Task, ended: Callable[[str], None]) -> Fitted:
        stage = fit_curvature(
            self.curvature,
            task,
            seed=self.seed,
            last=True,
            progress=_Stages(ended),
            limits=self.limits,
        )[-1]
        solver = fit_solver(self.solver, task, seed=self.seed)
        if solver is not None:
            ended("solver")
        fitted = FittedOperator(
            stage.operator, task.parameters, self.inverse, stage.label, solver, stage.by_example
        )
        solves: list[SolveRecord] = []
        inverted = fitted.inverse(report=solves.append).operator
        ended("inverse")
        scored_by(inverted, task, task.loss)
        ended("scores")
        # Blocks are solved one after the other, each for all vectors.
        products = sum(x.products for x in solves) / max(1, len(solves))
        return stage.operator, inverted, products


def _small(task: Task) -> Task:
    return task.examples(slice(WARM)).queries(slice(WARM))


def _row(
    stage: str, told: StagePrediction | None, beyond: float, watch: Watch, held: dict[str, int]
) -> Row:
    """A stage; `beyond` are seconds that every batch of it takes besides its work."""
    cost = Cost() if told is None else told.cost
    seconds = None if told is None or told.seconds is None or cost == Cost() else told.seconds
    if told is not None and seconds is not None:
        seconds += beyond * told.batches
    return Row(
        stage,
        cost.flops,
        cost.bytes,
        seconds,
        watch.seconds[stage],
        held.get(stage),
        watch.peaks[stage],
    )
