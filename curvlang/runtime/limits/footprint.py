"""Predicted memory of a run, phase by phase, before anything is computed.

Counted are the tensors that live at the same time: what is kept from phase to phase, the leaves
of one batch, and what the generated code of the largest block allocates. Workspaces inside
library calls are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from curvlang.compiler.algebra.shapes import GramShape, LeafShape
from curvlang.compiler.codegen.instructions import Gram
from curvlang.compiler.derive.program import Fisher, Partition, Program
from curvlang.compiler.planning.chunks import Chunks, chunk_count, matrix_chunks
from curvlang.compiler.planning.cost import elements
from curvlang.compiler.planning.plan import BlockPlan, Plan
from curvlang.diagnostics.diagnostic import Label
from curvlang.diagnostics.free_memory import gibibytes
from curvlang.diagnostics.refusal import label_at
from curvlang.ir.expr import Call, Define
from curvlang.models.derivatives.hessian import tangent_count
from curvlang.models.derivatives.layer_columns import gram_elements
from curvlang.models.layers.embedding import Embedding
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.runtime.limits.activations import reading_bytes
from curvlang.runtime.limits.portions import hessian_bytes

_EXACT = 8
"""Bytes of a statistic: accumulators and what follows from them are float64."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Bytes held at the peak of one phase of a run, and what they are."""

    name: str
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def blocks_read(program: Program, blocks: Sequence[LayerBlock]) -> tuple[LayerBlock, ...]:
    """The blocks of a partition that a program is read for.

    Where a model has parameters outside any layer's weight matrix, they have programs of their own.
    """
    return tuple(b for b in blocks if b.factored is not program.others)


def footprint(
    plans: Sequence[Plan], blocks: Mapping[Partition, Sequence[LayerBlock]], task: Task
) -> tuple[Phase, ...]:
    """The phases of a run in their order; the largest is the predicted peak.

    Args:
        plans: All plans of the run, with one batch size.
        blocks: The model's blocks for each partition.
        task: Model and data; only shapes are read.
    """
    phases: list[Phase] = []
    kept = _hessian(plans, blocks, task, phases)
    known = [finished_bytes(p, 0) for p in plans]
    for number in range(1, max((p.passes for p in plans), default=0) + 1):
        phase = _pass(plans, blocks, number, kept, sum(known))
        phases.append(replace(phase, parts={**phase.parts, **_data(plans, task)}))
        for k, p in enumerate(plans):
            if p.passes >= number:
                known[k] += finished_bytes(p, number)
    results = sum(_result_bytes(p) for p in plans)
    phases.append(Phase("results", {"Hessian": kept, "statistics": sum(known), "results": results}))
    return tuple(phases)


def largest(phases: Sequence[Phase]) -> Phase:
    """The phase that needs most."""
    return max(phases, key=lambda phase: phase.bytes)


def heaviest(plans: Sequence[Plan], needed: int) -> tuple[Label, ...]:
    """What a spec writes that takes more than half of the bytes that are needed, where it is written.

    A tensor that stands inside an expression, a comparison of places or random numbers, is named by its text.
    """
    for p in plans:
        made = {
            t.name: x for x in p.program.definitions if isinstance(x, Define) for t in x.targets
        }
        for block in p.blocks:
            for name in {x for code in block.finish for x in code.returned} & made.keys():
                size = _EXACT * block.copies(name) * elements(p.schedule.indices[name], block.sizes)
                value, span = made[name].value, made[name].span
                inside = isinstance(value, Call) and value.indices
                text = span.text if inside else span.text.partition("=")[0].strip()
                if 2 * size > needed:
                    shown = f"{gibibytes(size)} for `{text}` of block `{block.geometry.name}`"
                    return label_at(span, shown)
    return ()


def reads_hessian(p: Plan) -> bool:
    """Whether any code of the plan reads entries of the Hessian."""
    named = {name for name, leaf in p.program.leaves.items() if leaf.kind == "H"}
    codes = (
        code
        for block in p.blocks
        for code in (*block.passes, *block.finish, *(r.code for r in block.results.values()))
    )
    return any(named & set(code.reads) for code in codes)


def _hessian(
    plans: Sequence[Plan],
    blocks: Mapping[Partition, Sequence[LayerBlock]],
    task: Task,
    phases: list[Phase],
) -> int:
    """Append the Hessian's own phase; return the bytes that stay held of it."""
    readers = [p for p in plans if reads_hessian(p)]
    if not readers:
        return 0
    whole = _EXACT * task.P**2
    layers = blocks[Partition.LAYER]
    peak = hessian_bytes(task, layers, hessian_chunks(layers, task.P, task.N))
    restricted = sum(
        _EXACT * block.size**2 // block.count
        for p in readers
        if p.partition != Partition.MODEL
        for block in blocks_read(p.program, blocks[p.partition])
    )
    phases.append(Phase("Hessian", {"Hessian": whole, "tangents": max(0, peak - whole)}))
    return whole + restricted


def finished_bytes(p: Plan, number: int) -> int:
    """Bytes of what is known once pass `number` is done (0: before any)."""
    found = 0
    for block in p.blocks:
        known = p.schedule.indices
        if number:
            # Entries that a pass adds up under the name of a result.
            parts = block.passes[number - 1].parts
            known |= {part.target.name: part.target.indices for part in parts}
        found += sum(
            block.copies(name) * elements(known[name], block.sizes)
            for name in block.finish[number].returned
            if name not in block.shared
        )
    return _EXACT * found


def _data(plans: Sequence[Plan], task: Task) -> dict[str, int]:
    """A batch, and the next one, which is read while the first is there; nothing of rows in memory."""
    each = reading_bytes(task)
    return {"data": max(p.batch for p in plans) * each} if each else {}


def _pass(
    plans: Sequence[Plan],
    blocks: Mapping[Partition, Sequence[LayerBlock]],
    number: int,
    kept: int,
    known: int,
) -> Phase:
    active = [p for p in plans if p.passes >= number and p.adds(number)]
    sums = sum(p.cut.partial() * _sum_bytes(p, number) for p in active)
    kept_leaves = {p.reads for p in active if p.kept}
    leaves = sum(p.kept or 0 for p in active) + sum(
        _leaves(p, blocks) for p in _distinct(active) if p.reads not in kept_leaves
    )
    work = max((_work(p, blocks, number) for p in active), default=0)
    # Beside the leaves: the code runs when the model has let go of everything else.
    own = max((p.batch * p.model for p in active), default=0)
    batch = max((_leaves(p, blocks) for p in active), default=0)
    parts = {"Hessian": kept, "statistics": known + sums, "leaves": leaves, "code": work}
    return Phase(f"pass {number}", {**parts, "model": max(0, own - batch - work)})


def sum_bytes(p: Plan) -> tuple[int, ...]:
    """Bytes of the sums that each pass adds up, over all blocks."""
    return tuple(_sum_bytes(p, number) for number in range(1, p.passes + 1))


def chunks_of(plans: Sequence[Plan]) -> int:
    """Into how many chunks the examples of a run are cut: see `chunk_count`."""
    blocks = [block for p in plans for block in p.blocks]
    if not blocks:
        return 1
    passes = max(p.passes for p in plans)
    sums = [
        [_EXACT * _returned(b, k) for p in plans if p.passes >= k for b in p.blocks]
        for k in range(1, passes + 1)
    ]
    return chunk_count(
        plans[0].total,
        max(block.sizes.get("t", 1) for block in blocks),
        max(sum(block.count * block.geometry.rows for block in p.blocks) for p in plans),
        max(map(sum, sums), default=0),
        max((size for own in sums for size in own), default=0),
    )


def hessian_chunks(layers: Sequence[LayerBlock], parameters: int, examples: int) -> Chunks:
    """How the examples are cut for the dense Hessian: see `matrix_chunks`."""
    return matrix_chunks(
        examples, most_positions(layers), parameters, tangent_count(layers, parameters)
    )


def most_positions(layers: Sequence[LayerBlock]) -> int:
    """Positions of the layer that has most."""
    return max((block.positions for block in layers), default=1)


def _sum_bytes(p: Plan, number: int) -> int:
    return _EXACT * sum(_returned(b, number) for b in p.blocks)


def _returned(block: BlockPlan, number: int) -> int:
    parts = block.passes[number - 1].parts
    return sum(block.copies(x.target.name) * elements(x.target.indices, block.sizes) for x in parts)


def _distinct(plans: Sequence[Plan]) -> list[Plan]:
    """One plan for each set of leaves: programs with the same columns share them."""
    found: dict[tuple[Partition, Fisher | None], Plan] = {}
    for p in plans:
        if any(leaf.per_example for leaf in p.program.leaves.values()):
            found.setdefault(p.reads, p)
    return list(found.values())


def _leaves(p: Plan, blocks: Mapping[Partition, Sequence[LayerBlock]]) -> int:
    """Inputs and columns of every block for one batch."""
    columns = _columns(p)
    numbers = sum(
        b.count * b.positions * ((0 if b.shares else b.d_in) + columns * b.d_out)
        for b in blocks[p.reads[0]]
    )
    return p.batch * numbers * p.itemsize


def _columns(p: Plan) -> int:
    if p.program.fisher is None or not p.blocks:
        return 0
    return p.blocks[0].sizes.get("r", 1)


def _work(p: Plan, blocks: Mapping[Partition, Sequence[LayerBlock]], number: int) -> int:
    """What the code of the largest block allocates, the model's own columns included."""
    code = max((b.passes[number - 1].elements for b in p.blocks), default=0)
    copies = max((_returned(b, number) for b in p.blocks), default=0)
    whole, gathering = 0, 0
    if gram_by_layers(p, blocks, number):
        layers = blocks[Partition.LAYER]
        pair = gram_elements(layers, p.blocks[0].sizes["r"], p.batch, p.itemsize)
        return p.itemsize * (code + max(copies, pair))
    for leaf in p.program.leaves.values():
        if leaf.per_example and p.partition == Partition.MODEL:
            sizes = p.blocks[0].sizes
            whole += elements(leaf.indices, sizes)
            widest = max(block.size for block in blocks[Partition.LAYER])
            gathering = max(gathering, elements(leaf.indices, {**sizes, "p": widest}))
    return p.itemsize * (whole + max(gathering, code + copies))


def gram_by_layers(p: Plan, blocks: Mapping[Partition, Sequence[LayerBlock]], number: int) -> bool:
    """Whether the columns of the model are read as a Gram matrix alone, which forms none of them."""
    leaves = {name: x.kind for name, x in p.program.leaves.items() if x.per_example}
    if p.partition != Partition.MODEL or list(leaves.values()) != ["j"]:
        return False
    if any(isinstance(b.kind, Embedding) for b in blocks[Partition.LAYER]):
        return False
    lines = [line for b in p.blocks for line in b.passes[number - 1].lines]
    given = [line.operation for line in lines]
    return all(isinstance(x, Gram) and x.columns in leaves for x in given)


def _result_bytes(p: Plan) -> int:
    """What the operators hold beyond statistics that they share."""
    found = 0
    for block in p.blocks:
        for result in block.results.values():
            if not isinstance(result.shape, LeafShape | GramShape):
                found += result.code.elements
    return _EXACT * found
