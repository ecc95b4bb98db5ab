"""Runs plans over a task: one forward and backward per batch, shared by all curvatures of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curvlang.compiler.derive import derive
from curvlang.compiler.masking import masked
from curvlang.compiler.plan import (
    BATCH_AT_MOST,
    DENSE_AT_MOST,
    BlockPlan,
    Geometry,
    Plan,
    keeping,
    plan,
    plan_of,
)
from curvlang.compiler.program import Fisher, Partition, Program, Result
from curvlang.compiler.structure import GramShape, LeafShape
from curvlang.diagnostics.diagnostic import Diagnostic, SpecError
from curvlang.diagnostics.source import Span
from curvlang.ir.expr import Yield
from curvlang.language.chain import Chain
from curvlang.models.blocks import LayerBlock, blocks
from curvlang.models.column_product import ggn_of_layers
from curvlang.models.flops import hessian_flops, leaves_flops
from curvlang.models.hessian import hessian_dense
from curvlang.models.layer_columns import layer_columns
from curvlang.models.leaves import jacobian, leaves, loss_hessian
from curvlang.models.products import hessian_product
from curvlang.models.task import Task
from curvlang.operators import BlockDiagonal, ByExample, Identity, MatrixFree, Operator, added
from curvlang.runtime.assemble import operator
from curvlang.runtime.columns import column_count, repairs, require_columns
from curvlang.runtime.execute import Execution, accumulation_dtype
from curvlang.runtime.footprint import (
    Phase,
    blocks_read,
    footprint,
    largest,
    reads_hessian,
    sum_bytes,
)
from curvlang.runtime.memory import available, require
from curvlang.runtime.others import besides
from curvlang.runtime.positions import position_weights

Kept = dict[tuple[int, int], dict[str, dict[str, Tensor]]]
"""Leaves between passes, by plan and batch, then by block and name."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

Ended = Callable[[str], None]
"""Told that a stage of a run has ended: `plan`, `Hessian`, `pass 1`, `after pass 1`, …, `results`."""

BATCH_SHARE = 8
"""One batch may take an eighth of the memory that is available, and at most `BATCH_BYTES`."""
BATCH_BYTES = 2**30
SMALL_BATCH = 2**27
"""On a processor a batch takes no more than this besides its sums: larger ones were slower, since their
memory is asked of the system anew each time."""
BESIDE_SUMS = 4
"""Where what a batch adds up is large itself, a batch may take this many times as much: every batch makes it
anew and adds it to what is there."""
KEPT_SHARE = 4
"""Leaves that are kept between passes may take a quarter of the memory that is available."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedStage:
    """The curvature after one stage of a chain, on all parameters of the task.

    `by_example` gives it on some training examples alone, where its products are known.
    """

    label: str
    stage: str
    operator: Operator
    structures: Mapping[str, str]
    passes: int
    span: Span
    by_example: ByExample | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Plans for the chains of a run, and the blocks of the model they are made for."""

    programs: tuple[Program, ...]
    chains: tuple[tuple[Result, ...], ...]
    plans: tuple[Plan, ...]
    blocks: Mapping[Partition, tuple[LayerBlock, ...]]
    phases: tuple[Phase, ...]

    def plan_of(self, result: Result) -> Plan:
        """The plan that computes a result."""
        return plan_of(result, self.plans)


def prepare(
    chains: Sequence[Chain],
    task: Task,
    *,
    batch: int | None = None,
    dense: int = DENSE_AT_MOST,
    last: bool = False,
    keep: int | None = None,
    points: int = 1,
) -> Prepared:
    """Derive and plan the chains for a task; reads one example, computes nothing.

    Args:
        chains: Typed chains.
        task: Model, loss and data.
        batch: Examples per batch; chosen by the plan otherwise.
        dense: Entries that a matrix without other structure may have.
        last: Plan whole chains only, without what only their prefixes need.
        keep: Bytes that leaves may take between passes; a share of the free memory otherwise.
        points: Models that every example is seen at.

    Raises:
        SpecError: Where the model is not covered or the plan is refused.
        MachineError: Where the plan's memory is more than the machine has.
    """
    if task.mask is not None:
        chains = [masked(chain) for chain in chains]
    found = _blocks_of(task)
    beside = besides(chains, [b for b in found[Partition.LAYER] if not b.factored])
    programs, results = derive(chains, last=last, beside=beside)
    if any(program.partition is Partition.PARAMETER for program in programs):
        found[Partition.PARAMETER] = blocks(task.model, task.few, "parameter", verified=False)
    itemsize = torch.empty((), dtype=task.dtype).element_size()
    with torch.no_grad():
        outputs = task.model(task.few[:1]).numel()
    geometries = [_geometries(program, found, task, outputs) for program in programs]
    total = points * task.N

    def planned(memory: int) -> tuple[Plan, ...]:
        def of_size(size: int | None) -> tuple[Plan, ...]:
            return tuple(
                plan(program, g, total, memory=memory, itemsize=itemsize, batch=size, dense=dense)
                for program, g in zip(programs, geometries, strict=True)
            )

        first = of_size(batch)
        smallest = min((p.batch for p in first), default=1)
        return first if all(p.batch == smallest for p in first) else of_size(smallest)

    have = available(task.device)
    plans = _in_memory(planned, lambda p: footprint(p, found, task), task.device, have)
    if keep is None:
        room = have - largest(footprint(plans, found, task)).bytes
        keep = max(0, min(have // KEPT_SHARE, room))
    plans = keeping(plans, keep)
    require_columns(plans, found, task, outputs)
    phases = footprint(plans, found, task)
    worst = largest(phases)
    require(worst.bytes, task.device, f"this run ({worst.name})", repairs(plans))
    return Prepared(programs, results, plans, found, phases)


def _in_memory(
    planned: Callable[[int], tuple[Plan, ...]],
    measured: Callable[[Sequence[Plan]], Sequence[Phase]],
    device: torch.device,
    have: int,
) -> tuple[Plan, ...]:
    """Plans with batches as large as pays, smaller where the run would not fit otherwise.

    Args:
        planned: Plans whose batches take so many bytes.
        measured: Predicted memory of plans.
        device: Where.
        have: Bytes that are available.
    """
    small = BATCH_BYTES if device.type == "cuda" else SMALL_BATCH
    plans = planned(max(1, min(small, have // BATCH_SHARE)))
    sums = max((b for p in plans for b in sum_bytes(p)), default=0)
    memory = min(
        small + BESIDE_SUMS * sums, max(have // BATCH_SHARE, min(have // 2, BESIDE_SUMS * sums))
    )
    if any(p.batch < min(p.total, BATCH_AT_MOST) for p in plans):
        plans = planned(max(1, memory))
    while largest(measured(plans)).bytes > have and any(p.batch > 1 for p in plans) and memory > 1:
        memory //= 4
        plans = planned(max(1, memory))
    return plans


def model_flops(prepared: Prepared, task: Task) -> dict[str, int]:
    """Operations of the model itself over a whole run, by what they are for."""
    found: dict[str, int] = {}
    if any(map(reads_hessian, prepared.plans)) and task.P**2 <= DENSE_AT_MOST:
        layers = prepared.blocks[Partition.LAYER]
        one = hessian_flops(task.model, task.loss, *task.train, layers)
        found["the Hessian, by tangents of the gradient"] = round(one * task.N)
    passes: dict[tuple[Partition, Fisher | None], int] = {}
    for p in prepared.plans:
        if p.passes:
            passes[p.reads] = max(passes.get(p.reads, 0), 1 if p.kept else p.passes)
    for (by, fisher), count in passes.items():
        blocks = prepared.blocks[by]
        one = leaves_flops(task.model, task.loss, *task.train, blocks, fisher)
        kind = f"columns {fisher}" if fisher is not None else "inputs"
        found[f"the model, forward and backward ({kind}), {count} ×"] = round(one * task.N * count)
    return found


def _blocks_of(task: Task) -> dict[Partition, tuple[LayerBlock, ...]]:
    """The blocks by layer; what `a` and `g` give is checked once for every partition."""
    layers = blocks(task.model, task.few)
    return {Partition.MODEL: layers, Partition.LAYER: layers}


def _geometries(
    program: Program,
    found: Mapping[Partition, tuple[LayerBlock, ...]],
    task: Task,
    outputs: int,
) -> tuple[Geometry, ...]:
    """Sizes of every space."""
    r = 1 if program.fisher is None else column_count(program.fisher, task, outputs)
    if program.partition is Partition.MODEL:
        return (Geometry("model", {"p": task.P, "r": r, "c": outputs}),)
    return tuple(
        Geometry(b.name, {"t": b.positions, "r": r, "o": b.d_out, "i": b.d_in}, b.shares)
        for b in blocks_read(program, found[program.partition])
    )


def fit_chains(
    chains: Sequence[Chain],
    task: Task,
    *,
    seed: int = 0,
    batch: int | None = None,
    dense: int = DENSE_AT_MOST,
    last: bool = False,
    keep: int | None = None,
    progress: Progress | None = None,
    bare: bool = False,
    ended: Ended | None = None,
    points: Sequence[Task] = (),
) -> tuple[tuple[FittedStage, ...], ...]:
    """Fit every prefix of every chain on a task, with one shared run over the data per pass.

    Args:
        chains: Typed chains.
        task: Model, loss and data; its precision is the precision of the passes.
        seed: Seeds the sampled labels of every pass.
        batch: Examples per batch; chosen by the plan otherwise.
        dense: Entries that a matrix without other structure may have.
        last: Fit whole chains only; what only their prefixes need is not computed.
        keep: Bytes that leaves may take between passes; a share of the free memory otherwise.
        progress: Told about every batch.
        bare: Whether to leave the task's L2 term out: the curvature of the mean loss alone.
        ended: Told the name of every stage of the run when it has ended.
        points: The task at several models of one kind, in place of its own: every mean over examples
            is then over all examples at all of them, as if each were C examples.

    Returns:
        For each chain the fitted stages in order.
    """
    ended = ended or _untold
    tasks = tuple(points) or (task,)
    prepared = prepare(
        chains, tasks[0], batch=batch, dense=dense, last=last, keep=keep, points=len(tasks)
    )
    ended("plan")
    static = _Static(tasks, prepared)
    executions = [
        Execution(p, static.task.dtype, static.task.device, static.leaves_of(p))
        for p in prepared.plans
    ]
    if any(map(reads_hessian, prepared.plans)):
        ended("Hessian")
    passes = max((p.passes for p in prepared.plans), default=0)
    size = prepared.plans[0].batch if prepared.plans else 1
    kept: Kept = {}
    for number in range(1, passes + 1):
        _one_pass(prepared, executions, tasks, number, size, seed, kept, progress)
        ended(f"pass {number}")
        for execution in executions:
            execution.close(number)
        ended(f"after pass {number}")
    run = _Run(prepared, static, dict(zip(map(id, prepared.plans), executions, strict=True)), bare)
    found = tuple(tuple(_stage(r, run) for r in chain) for chain in prepared.chains)
    ended("results")
    return found


def _untold(stage: str) -> None:
    """Nobody asks."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What the stages of a run are assembled from."""

    prepared: Prepared
    static: _Static
    executions: Mapping[int, Execution]
    bare: bool

    def execution(self, result: Result) -> Execution:
        """What has computed a result."""
        return self.executions[id(self.prepared.plan_of(result))]


def _one_pass(
    prepared: Prepared,
    executions: Sequence[Execution],
    tasks: Sequence[Task],
    number: int,
    size: int,
    seed: int,
    kept: Kept,
    progress: Progress | None,
) -> None:
    generator = torch.Generator(device=tasks[0].device).manual_seed(pass_seed(seed, number))
    active = [e for e in executions if e.plan.passes >= number]
    adding = [e for e in active if e.plan.adds(number)]
    done, total = 0, sum(task.N for task in tasks)
    batches = ((task, x, y) for task in tasks for x, y in task.batches(size))
    for place, (task, x, y) in enumerate(batches if adding else ()):
        shared = _Batch(task, prepared, x, y, generator, done % task.N)
        for execution in adding:
            execution.feed(number, _leaves(execution.plan, place, number, shared, kept))
        done += len(x)
        if progress is not None:
            progress(f"pass {number}", done, total)


def _leaves(
    plan: Plan, place: int, number: int, shared: _Batch, kept: Kept
) -> dict[str, dict[str, Tensor]]:
    """A batch's leaves: those kept from the pass before, given up in the last one, or fresh ones."""
    key = (id(plan), place)
    found = kept.pop(key) if key in kept else shared.leaves_for(plan.program)
    if plan.kept and number < plan.passes:
        kept[key] = found
    return found


def pass_seed(seed: int, number: int) -> int:
    """Every pass draws its own labels: one draw for a basis and its spectrum would bias both."""
    return (seed * 1_000_003 + number) % 2**63


@dataclass(slots=True)
class _Batch:
    """Leaves of one batch, each computed once for all programs that read it."""

    task: Task
    prepared: Prepared
    x: Tensor
    y: Tensor
    generator: torch.Generator
    start: int = 0
    known: dict[tuple[Partition, Fisher | None, bool], dict[str, dict[str, Tensor]]] = field(
        default_factory=dict
    )

    def leaves_for(self, program: Program) -> dict[str, dict[str, Tensor]]:
        kinds = {leaf.kind for leaf in program.leaves.values() if leaf.per_example}
        if program.partition is Partition.MODEL:
            return {"model": self._whole(program, kinds)}
        by_block = self._layers(program.partition, program.fisher, "e" in kinds)
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
            self.known[key] = leaves(
                self.task.model,
                self.task.loss,
                self.x,
                self.y,
                self.prepared.blocks[partition],
                wants,
                fisher or Fisher(),
                self.generator,
            )
            if self.task.mask is not None:
                rows = slice(self.start, self.start + len(self.x))
                for block in self.prepared.blocks[partition]:
                    known = self.known[key][block.name]
                    known |= position_weights(block, self.task.mask, rows, self.task.dtype)
        return self.known[key]

    def _whole(self, program: Program, kinds: set[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        layers = self.prepared.blocks[Partition.LAYER]
        if "j" in kinds:
            given = self._layers(Partition.LAYER, program.fisher, False)
            found["j"] = layer_columns(layers, given)
        if "J" in kinds:
            found["J"] = jacobian(self.task.model, self.x, layers)
        if "L" in kinds:
            found["L"] = loss_hessian(self.task.model, self.task.loss, self.x, self.y)
        return {
            name: found[leaf.kind] for name, leaf in program.leaves.items() if leaf.kind in found
        }


class _Static:
    """The Hessian leaf, computed once where any program reads its entries: the mean over all models."""

    def __init__(self, tasks: Sequence[Task], prepared: Prepared) -> None:
        self.tasks = tasks
        self.task = tasks[0]
        self.prepared = prepared
        self._matrix: Tensor | None = None

    def leaves_of(self, p: Plan) -> dict[str, dict[str, Tensor]]:
        named = [name for name, leaf in p.program.leaves.items() if leaf.kind == "H"]
        found: dict[str, dict[str, Tensor]] = {}
        for block in p.blocks:
            reads = {x for r in block.results.values() for x in r.code.reads}
            reads |= {x for f in (*block.passes, *block.finish) for x in f.reads}
            if any(name in reads for name in named):
                entries = self._block(p.partition, block.geometry.name)
                found[block.geometry.name] = {
                    name: entries.reshape([block.sizes[x.space] for x in leaf.indices])
                    for name, leaf in p.program.leaves.items()
                    if name in named
                }
        return found

    def _block(self, partition: Partition, name: str) -> Tensor:
        exact = accumulation_dtype(self.task.device)
        if self.task.P**2 <= DENSE_AT_MOST:
            if self._matrix is None:
                require(5 * 8 * self.task.P**2, self.task.device, "the dense Hessian")
                layers = self.prepared.blocks[Partition.LAYER]
                found = (
                    hessian_dense(t.model, t.loss, *t.train, layers=layers).to(exact)
                    for t in self.tasks
                )
                whole = next(found)
                for other in found:
                    whole = whole + other
                self._matrix = whole if len(self.tasks) == 1 else whole / len(self.tasks)
            if partition is Partition.MODEL:
                return self._matrix
            index = self._layer(partition, name).index
            return self._matrix[index][:, index]
        index = self._layer(partition, name).index
        return _restricted(self.hessian(), index, self.task.P, self.task.dtype).to(exact)

    def _layer(self, partition: Partition, name: str) -> LayerBlock:
        return next(b for b in self.prepared.blocks[partition] if b.name == name)

    def hessian(self) -> Callable[[Tensor], Tensor]:
        """Products with the whole Hessian."""
        return _mean([hessian_product(t.model, t.loss, *t.train) for t in self.tasks])

    def product(self, result: Result, name: str) -> Callable[..., Operator]:
        """Matrix-free operators of a block, through products of the whole matrix."""

        def make(source: LeafShape | GramShape) -> Operator:
            _refuse_without_products(result)
            return self._products(result, name, *self.task.train)

        return make

    def by_example(self, result: Result) -> ByExample | None:
        """The same curvature on some examples alone; None where it has no products."""
        if not has_products(result) or result.partition is Partition.PARAMETER:
            return None
        if result.beside is not None and not has_products(result.beside):
            return None
        task, (X, y) = self.task, self.task.train

        def of(rows: Tensor) -> Operator:
            rows = rows.to(X.device)
            found = self._products(result, None, X[rows], y[rows])
            return regularised(found, task)

        return ByExample(task.N, of)

    def _products(self, result: Result, name: str | None, X: Tensor, y: Tensor) -> Operator:
        """The block of a name, or all of them, on given examples."""
        task = self.task
        if result.fisher is None:
            whole = _mean([hessian_product(t.model, t.loss, X, y) for t in self.tasks])
        else:
            layers = self.prepared.blocks[Partition.LAYER]
            whole = _mean([ggn_of_layers(t.model, t.loss, X, y, layers) for t in self.tasks])
        if result.partition is Partition.MODEL:
            return MatrixFree(whole, task.P, task.dtype, task.device)

        def block(index: Tensor) -> Operator:
            inner = lambda v: whole(_padded(v, index, task.P))[index]  # noqa: E731
            return MatrixFree(inner, len(index), task.dtype, task.device)

        if name is not None:
            return block(self._layer(result.partition, name).index)
        found = self.prepared.blocks[result.partition]
        index = tuple(b.index for b in found)
        return BlockDiagonal(tuple(b.name for b in found), tuple(map(block, index)), index)


def _mean(products: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Products with the mean of matrices."""
    if len(products) == 1:
        return products[0]
    return lambda v: torch.stack([product(v) for product in products]).mean(0)


def has_products(result: Result) -> bool:
    """Whether a result is the Hessian or the exact Gauss-Newton matrix, whole or in blocks."""
    return result.builtin and (result.fisher is None or result.fisher.kind == "exact")


def _refuse_without_products(result: Result) -> None:
    """Only H and the exact GGN have products; sampled columns would change between products."""
    if has_products(result):
        return
    what = f"with `fisher = {result.fisher}`" if result.builtin else f"after `{result.stage}`"
    raise SpecError(
        Diagnostic(
            "E0810",
            f"the curvature {what} does not fit and has no products",
            help=("use `fisher = exact`, or a structured stage after it",),
        )
    )


def _padded(v: Tensor, index: Tensor, total: int) -> Tensor:
    out = v.new_zeros(total, v.shape[1])
    out[index] = v
    return out


def _restricted(
    product: Callable[[Tensor], Tensor], index: Tensor, total: int, dtype: torch.dtype
) -> Tensor:
    """Entries of a block from products with its own unit vectors, 64 at a time."""
    parts = []
    for chunk in index.split(64):
        basis = torch.zeros(total, len(chunk), dtype=dtype, device=index.device)
        basis[chunk, torch.arange(len(chunk), device=index.device)] = 1
        parts.append(product(basis)[index])
    entries = torch.cat(parts, dim=1)
    return (entries + entries.T) / 2


def regularised(operator: Operator, task: Task) -> Operator:
    """The curvature of the objective: that of the mean loss plus the task's λ·I, exactly."""
    if not task.weight_decay:
        return operator
    scale = torch.tensor(task.weight_decay, dtype=operator.dtype, device=operator.device)
    return added((operator, Identity(scale, operator.size)))


def _stage(result: Result, run: _Run) -> FittedStage:
    """The operator of a result, the blocks of other parameters beside it."""
    parts = [result, *([result.beside] if result.beside is not None else [])]
    built: dict[str, Operator] = {}
    level = 0
    for part in parts:
        execution = run.execution(part)
        for block in execution.plan.blocks:
            found = block.results[part.value]
            built[block.geometry.name] = _build(part, block, execution, run.static, run.prepared)
            # The Hessian is read off the data in a pass of its own.
            level = max(level, found.level, int(isinstance(found.shape, LeafShape)))
    structures = {name: op.describe() for name, op in built.items()}
    if result.partition is Partition.MODEL:
        whole = built["model"]
    else:
        shown = run.prepared.blocks[result.partition]
        whole = BlockDiagonal(
            tuple(b.name for b in shown),
            tuple(built[b.name] for b in shown),
            tuple(b.index for b in shown),
        )
    if not run.bare:
        whole = regularised(whole, run.static.task)
    by_example = run.static.by_example(result)
    return FittedStage(
        result.label, result.stage, whole, structures, level, result.span, by_example
    )


def _build(
    result: Result, block: BlockPlan, execution: Execution, static: _Static, prepared: Prepared
) -> Operator:
    value: Yield = result.value
    parts = execution.result(block, value)
    sizes = block.geometry.sizes
    size = sizes["p"] if "p" in sizes else sizes["o"] * sizes["i"]
    product = static.product(result, block.geometry.name)
    return operator(block.results[value].shape, parts, size, product, span=value.span)
