"""Makes plans: code for every block, with the largest batch that a memory allows.

In: programs and the sizes of the blocks. Out: plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curvlang.compiler.derive.lengths import lengths
from curvlang.compiler.derive.program import Program
from curvlang.compiler.planning.block_code import BlockCode, Normal
from curvlang.compiler.planning.passes import Schedule, schedule
from curvlang.compiler.planning.plan import (
    BATCH_AT_MOST,
    DENSE_AT_MOST,
    BlockPlan,
    Geometry,
    Plan,
    batch_bytes,
)
from curvlang.compiler.planning.sharing import shared


def plan(
    program: Program,
    geometries: Sequence[Geometry],
    total: int,
    *,
    memory: int,
    itemsize: int = 8,
    batch: int | None = None,
    dense: int = DENSE_AT_MOST,
) -> Plan:
    """Plan a program over blocks.

    Args:
        program: Statements and yields of one partition.
        geometries: The blocks.
        total: Training examples N.
        memory: Bytes that leaves and intermediate results of one batch may take together.
        itemsize: Bytes of a number in the passes.
        batch: Examples per batch; from `memory` when not given.
        dense: Entries that a matrix without other structure may have; above, the Hessian and
            Gram matrices are kept as products with vectors, anything else is refused.
    """
    whole = schedule(program)
    chosen = batch or min(total, BATCH_AT_MOST)
    normal: Normal = {}
    while True:
        blocks = _blocks(
            program, whole, geometries, total, chosen, memory // itemsize, dense, normal
        )
        need = batch_bytes(whole, blocks, chosen, itemsize)
        if batch is not None or need <= memory or chosen == 1:
            return Plan(program.partition, program, whole, blocks, total, chosen, itemsize)
        chosen = max(1, min(chosen - 1, chosen * memory // need))


def _blocks(
    program: Program,
    whole: Schedule,
    geometries: Sequence[Geometry],
    total: int,
    batch: int,
    limit: int,
    dense: int,
    normal: Normal,
) -> tuple[BlockPlan, ...]:
    """Plans of all blocks; those of one size have one plan."""
    made: dict[tuple[tuple[tuple[str, int], ...], int], BlockPlan] = {}
    found = []
    for geometry in geometries:
        key = tuple(sorted(geometry.sizes.items())), geometry.count
        if key not in made:
            sizes = lengths(program, {**geometry.sizes, "n": batch}, geometry.name)
            maker = BlockCode(whole, sizes, total, max(1, limit // geometry.count), dense, normal)
            passes = tuple(maker.pass_function(k) for k in range(1, whole.passes + 1))
            finish = tuple(maker.finish_function(k) for k in range(whole.passes + 1))
            made[key] = BlockPlan(geometry, sizes, passes, finish, maker.results)
        block = replace(made[key], geometry=geometry)
        found.append(shared(block, whole) if geometry.shares else block)
    return tuple(found)
