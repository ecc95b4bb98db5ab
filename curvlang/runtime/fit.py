"""Runs plans over a task: one forward and backward per batch, shared by all curvatures of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from curvlang.compiler.algebra.shapes import LeafShape
from curvlang.compiler.derive.derive import derive
from curvlang.compiler.derive.program import Partition, Result
from curvlang.compiler.planning.plan import BlockPlan, Limits, Plan
from curvlang.compiler.planning.planner import DEFAULT
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.ir.expr import Yield
from curvlang.language.chain import Chain
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.operators import BlockDiagonal, ExampleMean, Operator, described
from curvlang.operators.matrix_free import of_one_precision
from curvlang.runtime.assemble import operators
from curvlang.runtime.execute import Execution
from curvlang.runtime.guard import check_magnitude, check_parts
from curvlang.runtime.limits.footprint import reads_hessian
from curvlang.runtime.others import besides, ignoring
from curvlang.runtime.passes.after_pass import AfterPass
from curvlang.runtime.passes.chunk_pass import Passes, PassWork
from curvlang.runtime.passes.entries import gradients_of
from curvlang.runtime.prepare import Preparation, prepare
from curvlang.runtime.processes.agreement import agreed_memory, check_same, task_content
from curvlang.runtime.processes.distributed import World, world
from curvlang.runtime.processes.in_step import in_step
from curvlang.runtime.processes.ledger import Ledger, MemoryLedger
from curvlang.runtime.progress.listeners import PlanProgress, Progress, StageProgress
from curvlang.runtime.static import Static, known_by_example, regularised
from curvlang.runtime.stored.keys import FitSettings
from curvlang.runtime.stored.session import Session, active
from curvlang.runtime.stored.work import BlockResult, Keeper, Work
from curvlang.runtime.vanishing import reads_curvature

_LOG = logging.getLogger(__name__)


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

    store = active()
    processes = world()
    given = _FitRequest(tasks, seed, last, limits, progress, processes)

    def run() -> tuple[tuple[FittedStage, ...], ...]:
        with processes.run():
            wanted = given.agreed(chains)
            if store is None:
                found = _fitted(wanted.prepared(chains), wanted)
            else:
                with store.run():
                    found = _with_store(store, chains, wanted)
            processes.exchange("end of the fit", "")
            return found

    # Who ignores parameters has them taken out of the task before the fit: the caller begins again.
    return run() if ignoring(chains) else tasks[0].retried(run)


@dataclass(frozen=True, slots=True, eq=False)
class _FitRequest:
    """How chains are fitted: the arguments of `fit_losses`."""

    tasks: tuple[Task, ...]
    seed: int
    last: bool
    limits: Limits
    progress: Progress | None
    processes: World

    def agreed(self, chains: Sequence[Chain]) -> _FitRequest:
        """The same with the memory that every process has; refused where they do not fit the same."""
        if self.processes.size == 1:
            return self
        stages = [stage.key for chain in chains for stage in chain.stages]
        settings = {"spec": repr((stages, self.last)), "seed": str(self.seed)}
        check_same(self.processes, "content", settings | task_content(self.tasks))
        memory = agreed_memory(self.processes, self.tasks[0])
        return replace(self, limits=replace(self.limits, memory=memory))

    def prepared(self, chains: Sequence[Chain]) -> Preparation:
        """Plans for chains."""
        points = len(self.tasks)
        return prepare(chains, self.tasks[0], last=self.last, limits=self.limits, points=points)

    def planned(self, prepared: Preparation) -> None:
        """Tell who wants to know what is planned; refused where the processes plan otherwise."""
        if self.processes.size > 1:
            check_same(self.processes, "plan", {"plan": prepared.code})
        self.ended("plan")
        passes = max((p.passes for p in prepared.plans), default=0)
        turns = max(1, len(prepared.turns))
        _LOG.info("planned: passes over the data: %d, turns: %d", passes, turns)
        listener: object = self.progress
        if isinstance(listener, PlanProgress):
            listener.planned(prepared, self.tasks[0])

    def ended(self, stage: str) -> None:
        """Tell who wants to know that a stage has ended."""
        _LOG.info("done: %s", stage)
        listener: object = self.progress
        if isinstance(listener, StageProgress):
            listener.ended(stage)


def _with_store(
    store: Session, chains: Sequence[Chain], wanted: _FitRequest
) -> tuple[tuple[FittedStage, ...], ...]:
    """What a store has is taken from it; the rest is fitted in one run, and kept."""
    settings = FitSettings(wanted.seed, wanted.limits.dense)
    keys = [store.keys(chain, wanted.tasks, wanted.last, settings) for chain in chains]
    missing = store.missing(keys, wanted.tasks[0])
    made: Iterator[tuple[FittedStage, ...]] = iter(())
    if missing:
        own = [chains[k] for k in missing]
        work = Work(store, [keys[k] for k in missing])
        prepared = work.prepared(
            lambda batch: replace(
                wanted, limits=replace(wanted.limits, batch=batch or wanted.limits.batch)
            ).prepared(own)
        )
        blocks = [[_layers(r, prepared) for r in chain] for chain in prepared.chains]
        made = iter(_fitted(prepared, wanted, Keeper(work, blocks, wanted.tasks[0].device)))
    return tuple(
        next(made) if k in missing else _read_back(chain, keys[k], store, wanted)
        for k, chain in enumerate(chains)
    )


def _read_back(
    chain: Chain, keys: Sequence[str], store: Session, wanted: _FitRequest
) -> tuple[FittedStage, ...]:
    """The stages of a chain that a store has."""
    task = wanted.tasks[0]
    kept = store.kept(keys, task)
    assert kept is not None
    (results,) = derive([chain], last=wanted.last, beside=besides([chain], task))[1]

    def by_example(number: int) -> ExampleMean:
        gradients = gradients_of(wanted.tasks)
        if not known_by_example(results[number]):
            return ExampleMean(task.N, None, gradients)

        def of(rows: Tensor) -> Operator:
            prepared = wanted.prepared([chain])
            found = Static(wanted.tasks, prepared).by_example(prepared.chains[0][number])
            assert found.of is not None
            return found.of(rows)

        return ExampleMean(task.N, of, gradients)

    return tuple(
        FittedStage(
            r.label, r.stage, x.operator, x.structures, x.passes, r.span, by_example(k), x.note
        )
        for k, (r, x) in enumerate(zip(results, kept, strict=True))
    )


def _fitted(
    prepared: Preparation, wanted: _FitRequest, keeper: Keeper | None = None
) -> tuple[tuple[FittedStage, ...], ...]:
    """Run the plans over the data, pass by pass; where blocks take turns, turn by turn."""
    wanted.planned(prepared)
    built: dict[tuple[int, int], dict[str, tuple[Operator, ...]]] = {}
    turns = [*prepared.in_turns()]
    for number, turn in enumerate(turns):
        known = None if keeper is None else keeper.finished(number)
        if known is not None:
            run = _Run(turn, Static(wanted.tasks, turn), {})
            for place, blocks in known.items():
                built.setdefault(place, {}).update(blocks)
            continue
        ledger = MemoryLedger() if keeper is None else keeper.ledger(number, turn)
        run = _run(turn, wanted, ledger, f" (turn {number + 1} of {len(turns)})" * (len(turns) > 1))
        results = [
            BlockResult((c, k), name, build)
            for c, chain in enumerate(prepared.chains)
            for k, result in enumerate(chain)
            for name, build in _blocks(result, run)
        ]
        made = [x.build() for x in results] if keeper is None else keeper.kept(results)
        for one, block in zip(results, made, strict=True):
            built.setdefault(one.place, {})[one.name] = block
        if keeper is not None:
            keeper.end_turn(number)
    found = tuple(
        tuple(_stage(result, built[c, k], run, prepared) for k, result in enumerate(chain))
        for c, chain in enumerate(prepared.chains)
    )
    if keeper is not None:
        keeper.finish([[_said(stage) for stage in stages] for stages in found])
    wanted.ended("results")
    return found


def _layers(result: Result, prepared: Preparation) -> Sequence[LayerBlock]:
    """The blocks of the parameters that a result has; none where it is one matrix."""
    return () if result.partition == Partition.MODEL else prepared.blocks[result.partition]


def _said(stage: FittedStage) -> dict[str, Any]:
    """What a store says of a stage beside its blocks."""
    return {"passes": stage.passes, "note": stage.note, "structures": dict(stage.structures)}


def _run(prepared: Preparation, wanted: _FitRequest, ledger: Ledger, turn: str) -> _Run:
    """All passes for the blocks of a turn; what a store has of them is not computed again."""
    static = Static(wanted.tasks, prepared)
    with in_step():
        given = [static.leaves_of(p) for p in prepared.plans]
    kind = static.task.precision, static.task.device
    executions = tuple(
        Execution(p, *kind, leaves, static.task.policy)
        for p, leaves in zip(prepared.plans, given, strict=True)
    )
    if any(map(reads_hessian, prepared.plans)):
        wanted.ended("Hessian")
    work = PassWork(prepared, executions, wanted.tasks, wanted.seed)
    spans = [_span(prepared, p) for p in prepared.plans]
    passes = Passes(work, ledger, wanted.processes, wanted.progress, turn)
    after = AfterPass(work, ledger, wanted.processes, spans, wanted.progress, turn)
    for number in range(1, max((p.passes for p in prepared.plans), default=0) + 1):
        known = after.known(number)
        sums = () if ledger.complete(number, known) else passes.run(number)
        wanted.ended(f"pass {number}")
        after.close(number, known, sums)
        wanted.ended(f"after pass {number}")
    return _Run(prepared, static, dict(zip(map(id, prepared.plans), executions, strict=True)))


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


def _blocks(result: Result, run: _Run) -> Iterator[tuple[str, Callable[[], tuple[Operator, ...]]]]:
    """What builds the blocks of a result that a turn has fitted, by name; those of other parameters as well."""
    for part in result.parts:
        execution = run.execution(part)
        for block in execution.plan.blocks:
            yield block.geometry.name, partial(_checked, result, part, block, run)


def _checked(result: Result, part: Result, block: BlockPlan, run: _Run) -> tuple[Operator, ...]:
    found = _build(part, block, run.execution(part), run.static, run.prepared)
    for operator in found:
        check_magnitude(operator, result.stage, result.span)
    return found


def _stage(
    result: Result, built: Mapping[str, tuple[Operator, ...]], run: _Run, prepared: Preparation
) -> FittedStage:
    """A result as one operator."""
    level = 0
    for part in result.parts:
        for block in prepared.plan_of(part).blocks:
            found = block.results[part.value]
            # The Hessian is read off the data in a pass of its own.
            level = max(level, found.level, int(isinstance(found.shape, LeafShape)))
    whole: Operator
    if result.partition == Partition.MODEL:
        (whole,) = built["model"]
        structures: dict[str, str] = {"model": whole.describe()}
    else:
        whole = _direct_sum(prepared.blocks[result.partition], built)
        structures = dict(described(whole))
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
    places = [p for b in shown for p in b.where.parts(len(built[b.name]) if b.count > 1 else 1)]
    parts = of_one_precision([x for b in shown for x in built[b.name]])
    return BlockDiagonal(names, parts, tuple(p.to(parts[0].device) for p in places))


def _build(
    result: Result, block: BlockPlan, execution: Execution, static: Static, prepared: Preparation
) -> tuple[Operator, ...]:
    value: Yield = result.value
    parts = execution.result(block, value)
    check_parts(parts, block.geometry.name, result.stage, result.span)
    product = static.product(result, block.geometry.name)
    return operators(
        block.results[value].shape,
        parts,
        (block.count, block.geometry.rows),
        product,
        span=value.span,
    )
