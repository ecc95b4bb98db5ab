"""Runs plans over a task: one forward and backward per batch, shared by all curvatures of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from curvlang.compiler.algebra.shapes import LeafShape
from curvlang.compiler.derive.program import Partition, Result
from curvlang.compiler.planning.plan import BlockPlan, Limits, Plan
from curvlang.compiler.planning.planner import DEFAULT
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.ir.expr import Yield
from curvlang.language.chain import Chain
from curvlang.models.losses.finite import in_part
from curvlang.models.padding.spans import Batch
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, check_batch
from curvlang.operators import BlockDiagonal, ExampleMean, Operator, described
from curvlang.runtime.assemble import operators
from curvlang.runtime.batch_leaves import BatchLeaves
from curvlang.runtime.execute import Execution
from curvlang.runtime.guard import check_magnitude, check_parts, check_sums
from curvlang.runtime.limits.footprint import reads_hessian
from curvlang.runtime.others import ignoring
from curvlang.runtime.prepare import Preparation, prepare
from curvlang.runtime.progress.listeners import PlanProgress, Progress, StageProgress
from curvlang.runtime.static import Static, regularised
from curvlang.runtime.vanishing import reads_curvature

Kept = dict[tuple[int, int], dict[str, dict[str, Tensor]]]
"""Leaves between passes, by plan and batch, then by block and name."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedStage:
    """The curvature after one stage of a chain, on all parameters of the task.

    `by_example` gives it on some training examples alone, where its products are known; `note` is what
    a reader of results has to know of it.
    """

    label: str
    stage: str
    operator: Operator
    structures: Mapping[str, str]
    passes: int
    span: Span
    by_example: ExampleMean | None = None
    note: str = ""


def fit_chains(
    chains: Sequence[Chain],
    task: Task | Sequence[Task],
    *,
    seed: int = 0,
    last: bool = False,
    progress: Progress | None = None,
    limits: Limits = DEFAULT,
) -> tuple[tuple[FittedStage, ...], ...]:
    """Fit every prefix of every chain on a task, with one shared run over the data per pass.

    Args:
        chains: Typed chains.
        task: Model, loss and data; its precision is the precision of the passes. Several are the task
            at several models of one kind: every mean over examples is then over all examples at all
            of them, as if each were C examples.
        seed: Seeds the sampled labels of every pass.
        last: Fit whole chains only; what only their prefixes need is not computed.
        progress: Called after every batch.
        limits: Of the plan.

    Returns:
        For each chain the fitted stages in order.
    """
    fitted = fit_losses(chains, task, seed=seed, last=last, progress=progress, limits=limits)
    one = task if isinstance(task, Task) else task[0]
    return tuple(
        tuple(replace(x, operator=regularised(x.operator, one)) for x in stages)
        for stages in fitted
    )


def fit_losses(
    chains: Sequence[Chain],
    task: Task | Sequence[Task],
    *,
    seed: int = 0,
    last: bool = False,
    progress: Progress | None = None,
    limits: Limits = DEFAULT,
) -> tuple[tuple[FittedStage, ...], ...]:
    """What `fit_chains` does, for the curvature of the mean loss alone, without the task's L2 term."""
    tasks = (task,) if isinstance(task, Task) else tuple(task)

    def run() -> tuple[tuple[FittedStage, ...], ...]:
        prepared = prepare(chains, tasks[0], last=last, limits=limits, points=len(tasks))
        return _fitted(prepared, tasks, seed, progress)

    # Who ignores parameters has them taken out of the task before the fit: the caller begins again.
    return run() if ignoring(chains) else tasks[0].retried(run)


def _fitted(
    prepared: Preparation, tasks: Sequence[Task], seed: int, progress: Progress | None
) -> tuple[tuple[FittedStage, ...], ...]:
    """Run the plans over the data, pass by pass."""
    listener: object = progress

    def ended(stage: str) -> None:
        if isinstance(listener, StageProgress):
            listener.ended(stage)

    ended("plan")
    if isinstance(listener, PlanProgress):
        listener.planned(prepared, tasks[0])
    static = Static(tasks, prepared)
    executions = tuple(
        Execution(p, static.task.precision, static.task.device, static.leaves_of(p))
        for p in prepared.plans
    )
    if any(map(reads_hessian, prepared.plans)):
        ended("Hessian")
    passes = _Passes(prepared, executions, tuple(tasks), seed, progress)
    for number in range(1, max((p.passes for p in prepared.plans), default=0) + 1):
        passes.run(number)
        ended(f"pass {number}")
        for execution in executions:
            check_sums(execution.sums, tasks, _span(prepared, execution.plan))
            execution.close(number)
        ended(f"after pass {number}")
    run = _Run(prepared, static, dict(zip(map(id, prepared.plans), executions, strict=True)))
    found = tuple(tuple(_stage(r, run) for r in chain) for chain in prepared.chains)
    ended("results")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What the stages of a run are assembled from."""

    prepared: Preparation
    static: Static
    executions: Mapping[int, Execution]

    def execution(self, result: Result) -> Execution:
        """What has computed a result."""
        return self.executions[id(self.prepared.plan_of(result))]


def _span(prepared: Preparation, plan: Plan) -> Span:
    """Where the last stage that a plan computes was asked for."""
    results = [r for chain in prepared.chains for r in chain if prepared.plan_of(r) is plan]
    return results[-1].span if results else NOWHERE


@dataclass(slots=True)
class _Passes:
    """The passes over the data, and the leaves that are kept from one to the next."""

    prepared: Preparation
    executions: tuple[Execution, ...]
    tasks: tuple[Task, ...]
    seed: int
    progress: Progress | None
    kept: Kept = field(default_factory=dict)

    def run(self, number: int) -> None:
        """One pass: every batch, to all that adds something up."""
        prepared = self.prepared
        adding = [e for e in self.executions if e.plan.passes >= number and e.plan.adds(number)]
        done, total = 0, sum(task.N for task in self.tasks)
        for place, (before, task, batch) in enumerate(self._batches() if adding else ()):
            draws = batch.draws(self.seed, number, before)
            shared = BatchLeaves(task, prepared, batch, draws)
            if number == 1 and prepared.picks:
                with in_part(task.model, batch.X, "train", batch.start):
                    check_batch(task.model, batch.X, prepared.blocks[Partition.LAYER], place)
            for execution in adding:
                execution.feed(number, self._leaves(execution.plan, place, number, shared))
            done += len(batch)
            if self.progress is not None:
                self.progress(f"pass {number}", done, total)

    def _batches(self) -> Iterator[tuple[int, Task, Batch]]:
        """The batches of every task, after how many examples of the tasks before it."""
        before = 0
        for task in self.tasks:
            for batch in task.cut(self.prepared.rows_at, whole=self.prepared.whole):
                yield before, task, batch
            before += task.N

    def _leaves(
        self, plan: Plan, place: int, number: int, shared: BatchLeaves
    ) -> dict[str, dict[str, Tensor]]:
        """A batch's leaves: those kept from the pass before, given up in the last one, or new ones."""
        key, kept = (id(plan), place), self.kept
        found = kept.pop(key) if key in kept else shared.leaves_for(plan.program)
        if plan.kept and number < plan.passes:
            kept[key] = found
        return found


def _stage(result: Result, run: _Run) -> FittedStage:
    """The operator of a result, the blocks of other parameters beside it."""
    parts = [result, *([result.beside] if result.beside is not None else [])]
    built: dict[str, tuple[Operator, ...]] = {}
    level = 0
    for part in parts:
        execution = run.execution(part)
        for block in execution.plan.blocks:
            found = block.results[part.value]
            built[block.geometry.name] = _build(part, block, execution, run.static, run.prepared)
            # The Hessian is read off the data in a pass of its own.
            level = max(level, found.level, int(isinstance(found.shape, LeafShape)))
    whole: Operator
    if result.partition is Partition.MODEL:
        (whole,) = built["model"]
        structures: dict[str, str] = {"model": whole.describe()}
    else:
        whole = _direct_sum(run.prepared.blocks[result.partition], built)
        structures = dict(described(whole))
    check_magnitude(whole, result.stage, result.span)
    by_example = run.static.by_example(result)
    note = run.static.zero if reads_curvature(result.fisher) else ""
    return FittedStage(
        result.label, result.stage, whole, structures, level, result.span, by_example, note
    )


def _direct_sum(
    shown: Sequence[LayerBlock], built: Mapping[str, tuple[Operator, ...]]
) -> BlockDiagonal:
    """All blocks in the order of the parameters."""
    names = tuple(name for b in shown for name in b.names)
    places = [p for b in shown for p in ([b.index] if len(built[b.name]) == 1 else b.places)]
    parts = tuple(x for b in shown for x in built[b.name])
    return BlockDiagonal(names, parts, tuple(p.to(parts[0].device) for p in places))


def _build(
    result: Result, block: BlockPlan, execution: Execution, static: Static, prepared: Preparation
) -> tuple[Operator, ...]:
    value: Yield = result.value
    parts = execution.result(block, value)
    check_parts(parts, block.geometry.name, result.stage, result.span)
    sizes = block.geometry.sizes
    size = sizes["p"] if "p" in sizes else sizes["o"] * sizes["i"]
    product = static.product(result, block.geometry.name)
    return operators(
        block.results[value].shape, parts, (block.count, size), product, span=value.span
    )
