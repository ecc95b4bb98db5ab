"""Runs plans over a task: one forward and backward per batch, shared by all curvatures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from curvlang.compiler.algebra.shapes import LeafShape
from curvlang.compiler.derive.program import Fisher, Partition, Program, Result
from curvlang.compiler.planning.plan import BlockPlan, Limits, Plan
from curvlang.compiler.planning.planner import DEFAULT
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.ir.expr import Yield
from curvlang.language.chain import Chain
from curvlang.models.derivatives.layer_columns import layer_columns
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.finite import in_part
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, check_batch
from curvlang.models.tracing.half_precision import exact_jacobian, exact_leaves, exact_loss_hessian
from curvlang.models.tracing.leaves import LeafRequest
from curvlang.operators import BlockDiagonal, ExampleMean, Operator, described
from curvlang.runtime.alignment import Alignment, varying
from curvlang.runtime.assemble import operators
from curvlang.runtime.execute import Execution
from curvlang.runtime.guard import check_magnitude, check_parts, check_sums
from curvlang.runtime.limits.footprint import reads_hessian
from curvlang.runtime.others import ignoring
from curvlang.runtime.positions import position_weights
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
        size = prepared.plans[0].batch
        batches = ((task, x, y) for task in self.tasks for x, y in task.batches(size))
        for place, (task, x, y) in enumerate(batches if adding else ()):
            draws = Draws(self.seed, number, done)
            shared = _Batch(task, prepared, x, y, draws, done % task.N)
            if number == 1 and prepared.picks:
                with in_part(task.model, x, "train", shared.start):
                    check_batch(task.model, x, prepared.blocks[Partition.LAYER], place)
            for execution in adding:
                execution.feed(number, self._leaves(execution.plan, place, number, shared))
            done += len(x)
            if self.progress is not None:
                self.progress(f"pass {number}", done, total)

    def _leaves(
        self, plan: Plan, place: int, number: int, shared: _Batch
    ) -> dict[str, dict[str, Tensor]]:
        """A batch's leaves: those kept from the pass before, given up in the last one, or new ones."""
        key, kept = (id(plan), place), self.kept
        found = kept.pop(key) if key in kept else shared.leaves_for(plan.program)
        if plan.kept and number < plan.passes:
            kept[key] = found
        return found


@dataclass(slots=True)
class _Batch:
    """Leaves of one batch, each computed once for all programs that read it."""

    task: Task
    prepared: Preparation
    x: Tensor
    y: Tensor
    draws: Draws
    start: int = 0
    known: dict[tuple[Partition, Fisher | None, bool], dict[str, dict[str, Tensor]]] = field(
        default_factory=dict
    )

    def leaves_for(self, program: Program) -> dict[str, dict[str, Tensor]]:
        kinds = {leaf.kind for leaf in program.leaves.values() if leaf.per_example}
        if program.partition is Partition.MODEL:
            return {"model": self._whole(program, kinds)}
        by_block = self._layers(program.partition, program.fisher, "e" in kinds)
        self._check_positions(program.partition, by_block)
        names = {name: leaf.kind for name, leaf in program.leaves.items() if leaf.per_example}
        return {
            block: {name: given[kind] for name, kind in names.items()}
            for block, given in by_block.items()
        }

    def _layers(
        self, partition: Partition, fisher: Fisher | None, errors: bool
    ) -> dict[str, dict[str, Tensor]]:
        key = (partition, fisher, errors)
        if key not in self.known:
            wants = {"a"} | ({"g"} if fisher else set()) | ({"e"} if errors else set())
            with in_part(self.task.model, self.x, "train", self.start):
                self.known[key] = exact_leaves(
                    self.task.model,
                    self.task.loss,
                    self.x,
                    self.y,
                    self.prepared.blocks[partition],
                    LeafRequest(wants, fisher or Fisher(), self.draws),
                )
            for block in self.prepared.blocks[partition]:
                self.known[key][block.name] |= self._weights(block)
        return self.known[key]

    def _check_positions(self, partition: Partition, known: dict[str, dict[str, Tensor]]) -> None:
        """Layers have the positions that the plan's code is made for."""
        for block in self.prepared.blocks[partition]:
            if block.factored and known[block.name]["a"].shape[-2] != block.positions:
                raise varying(block.layer)

    def _weights(self, block: LayerBlock) -> dict[str, Tensor]:
        """What every position of a layer counts in a mean, where some are padding."""
        if not self.prepared.aligned:
            return {}
        rows = slice(self.start, self.start + len(self.x))
        calls = self.prepared.aligned.get(block.layer, (Alignment(block.positions),))
        like = torch.empty((), dtype=self.task.precision, device=self.task.device)
        return position_weights(calls, rows, self.task.N, like, block.count)

    def _whole(self, program: Program, kinds: set[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        layers = self.prepared.blocks[Partition.LAYER]
        if "j" in kinds:
            given = self._layers(Partition.LAYER, program.fisher, False)
            found["j"] = layer_columns(layers, given)
        if "J" in kinds:
            found["J"] = exact_jacobian(self.task.model, self.x, layers)
        if "L" in kinds:
            found["L"] = exact_loss_hessian(self.task.model, self.task.loss, self.x, self.y)
        return {
            name: found[leaf.kind] for name, leaf in program.leaves.items() if leaf.kind in found
        }


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
