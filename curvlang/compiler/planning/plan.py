"""The plan of a run: for every block the torch code of every pass, its costs and structures.

Source code that can be printed and executed, with the passes over the data, floating-point operations
and memory known before anything runs. `planner` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from curvlang.compiler.algebra.shapes import ProjectedShape, Shape
from curvlang.compiler.codegen.function import Function
from curvlang.compiler.derive.program import Fisher, Partition, Program, Result
from curvlang.compiler.planning.chunks import Chunks
from curvlang.compiler.planning.passes import Schedule
from curvlang.ir.expr import Yield

BATCH_AT_MOST = 1024
"""Examples in a batch: enough to keep the matrix products busy."""
DENSE_AT_MOST = 12_000**2
"""Entries of a matrix without structure: 1.1 GiB in float64, and an eigendecomposition of minutes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may take.

    Args:
        batch: Examples per batch; chosen by the memory where None.
        dense: Entries that a matrix without other structure may have; above, the Hessian and
            Gram matrices are kept as products with vectors, anything else is refused.
        keep: Bytes that leaves may take between passes; a share of the free memory where None.
        model: Bytes that the model holds for one example while its leaves are computed, they included.
        memory: Bytes that a run may take; what is available where None.
    """

    batch: int | None = None
    dense: int = DENSE_AT_MOST
    keep: int | None = None
    model: int = 0
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Geometry:
    """A block's name and the sizes of its spaces by letter (`i` with the bias column).

    `shares` names an earlier block of the same sizes with the same input. `count` blocks of one
    shape run as one, every tensor with an axis for them in front; `repeated` are the kinds of leaves
    that are the same in all of them.
    """

    name: str
    sizes: Mapping[str, int]
    shares: str = ""
    count: int = 1
    repeated: frozenset[str] = frozenset()

    @property
    def rows(self) -> int:
        """Rows of the block's matrix: parameters of the model, or o · i of a layer."""
        return self.sizes["p"] if "p" in self.sizes else self.sizes["o"] * self.sizes["i"]


@dataclass(frozen=True, slots=True)
class ResultPlan:
    """What a yield becomes: its structure, and the code that computes the components."""

    shape: Shape
    code: Function
    level: int


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """All generated code for one block.

    `sizes` holds the lengths of all spaces, the batch's for `n`.
    `passes[k]` runs on every batch of pass k+1 and returns sums over its examples;
    `finish[k]` runs after pass k (k = 0: before any) and returns finished statistics.
    `shared` are statistics that are another block's: one tensor for both. `repeated` are leaves and
    statistics that are one tensor for all blocks of one shape.
    """

    geometry: Geometry
    sizes: Mapping[str, int]
    passes: tuple[Function, ...]
    finish: tuple[Function, ...]
    results: Mapping[Yield, ResultPlan]
    shared: frozenset[str] = frozenset()
    repeated: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """How many blocks of one shape it is."""
        return self.geometry.count

    def copies(self, name: str) -> int:
        """How often a leaf or a statistic is there: for every block, or once for all."""
        return 1 if name in self.repeated else self.count

    def component_copies(self, result: ResultPlan, component: str) -> int:
        """The same of a component of a result."""
        name = result.code.returned[component]
        made = {x: line.count for line in result.code.body for x in line.targets}
        return made.get(name, self.copies(name))

    def read_after(self, number: int) -> set[str]:
        """Tensors that code after a pass reads."""
        codes = (
            *self.passes[number:],
            *self.finish[number + 1 :],
            *(result.code for result in self.results.values()),
        )
        return {name for code in codes for name in code.reads}


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of one program over all blocks of its partition.

    `kept` says what becomes of the leaves between passes: bytes of all batches that are kept, 0
    where they are computed again in each pass, None where one pass is all there is. `model` is
    what `Limits.model` was. `chunks` says into how many chunks the examples are cut.
    """

    partition: Partition
    program: Program
    schedule: Schedule
    blocks: tuple[BlockPlan, ...]
    total: int
    batch: int
    itemsize: int = 8
    kept: int | None = None
    model: int = 0
    chunks: int = 1

    @property
    def reads(self) -> tuple[Partition, Fisher | None]:
        """Whose inputs and columns it reads: plans that agree in this share their leaves."""
        by = Partition.LAYER if self.partition.layers else self.partition
        return by, self.program.fisher

    @property
    def passes(self) -> int:
        """How often the data is read."""
        return self.schedule.passes

    @property
    def batches(self) -> int:
        """Batches in one pass."""
        return self.cut.batches(self.batch)

    @property
    def cut(self) -> Chunks:
        """The examples in chunks."""
        return Chunks(self.total, self.chunks)

    def adds(self, number: int) -> bool:
        """Whether pass `number` adds anything up; what is known by products reads the data then."""
        return any(block.passes[number - 1].parts for block in self.blocks)


def plan_of(result: Result, plans: Sequence[Plan]) -> Plan:
    """The plan that computes a result."""
    return next(p for p in plans if p.program.key == result.key)


def first_plan(result: Result, plans: Sequence[Plan]) -> ResultPlan:
    """What a result is in the first block that it is computed for."""
    blocks = plan_of(result, plans).blocks
    if not blocks and result.beside is not None:
        return first_plan(result.beside, plans)
    return blocks[0].results[result.value]


def batch_bytes(whole: Schedule, blocks: Sequence[BlockPlan], batch: int, itemsize: int) -> int:
    """Bytes of one batch: the leaves of all blocks and the intermediate results of the largest."""
    temporary = max((f.elements for b in blocks for f in b.passes), default=0)
    return leaf_bytes(whole, blocks, batch, itemsize) + temporary * itemsize


def leaf_bytes(whole: Schedule, blocks: Sequence[BlockPlan], examples: int, itemsize: int) -> int:
    """Bytes of the leaves of all blocks over some examples."""
    elements = 0
    for block in blocks:
        sizes = {**block.geometry.sizes, "n": examples}
        for name, leaf in whole.leaves.items():
            if leaf.per_example and not (block.geometry.shares and leaf.kind == "a"):
                elements += block.copies(name) * prod(sizes[x.space] for x in leaf.indices)
    return elements * itemsize


def keeping(plans: Sequence[Plan], limit: int) -> tuple[Plan, ...]:
    """Decide which plans keep their leaves between passes: in order, as long as they fit.

    Sampled columns are never kept: every pass draws its own.

    Args:
        plans: The plans of a run.
        limit: Bytes that may be kept in all.
    """
    left = limit
    decided = []
    for given in plans:
        kept = None
        if given.passes > 1:
            need = leaf_bytes(given.schedule, given.blocks, given.total, given.itemsize)
            drawn = given.program.fisher is not None and given.program.fisher.kind == "mc"
            kept = need if need <= left and not drawn else 0
            left -= kept
        decided.append(replace(given, kept=kept))
    return tuple(decided)


def inside(shape: Shape) -> Shape:
    """What a projection lifts, or the shape itself."""
    return shape.inner if isinstance(shape, ProjectedShape) else shape
