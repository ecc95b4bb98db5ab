"""Makes plans: code for every block, with the largest batch that a memory allows.

In: programs and the sizes of the blocks. Out: plans.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from curvlang.compiler.derive.lengths import lengths
from curvlang.compiler.derive.program import Program
from curvlang.compiler.planning.block_code import BlockCode, Normal
from curvlang.compiler.planning.passes import Schedule, schedule
from curvlang.compiler.planning.plan import (
    BATCH_AT_MOST,
    BlockPlan,
    Geometry,
    Limits,
    Plan,
    batch_bytes,
)
from curvlang.compiler.planning.repeated import counted
from curvlang.compiler.planning.sharing import shared
from curvlang.ir.expr import Space

DEFAULT = Limits()
"""As large as the memory allows."""


def plan(
    program: Program,
    geometries: Sequence[Geometry],
    total: int,
    *,
    memory: int,
    itemsize: int = 8,
    limits: Limits = DEFAULT,
) -> Plan:
    """Plan a program over blocks.

    Args:
        program: Statements and yields of one partition.
        geometries: The blocks.
        total: Training examples N.
        memory: Bytes that leaves and intermediate results of one batch may take together.
        itemsize: Bytes of a number in the passes.
        limits: Of a batch and of matrices.
    """
    maker = _Maker(program, schedule(program), total, memory // itemsize, limits.dense)
    chosen = limits.batch or min(total, BATCH_AT_MOST)
    while True:
        blocks = maker.blocks(geometries, chosen)
        # While code runs on the leaves, what the model held beside them is gone.
        need = max(batch_bytes(maker.whole, blocks, chosen, itemsize), chosen * limits.model)
        if limits.batch is not None or need <= memory or chosen == 1:
            whole = maker.whole
            return Plan(
                program.partition,
                program,
                whole,
                blocks,
                total,
                chosen,
                itemsize,
                model=limits.model,
            )
        chosen = max(1, min(chosen - 1, chosen * memory // need))


LESS = 4
"""How many times fewer positions `fixed_share` looks at."""


def fixed_share(made: Plan) -> float:
    """Of the bytes of a plan's batch, the share that stays where its examples have few positions."""
    few = [
        replace(b.geometry, sizes={**b.geometry.sizes, "t": max(1, b.geometry.sizes["t"] // LESS)})
        for b in made.blocks
        if "t" in b.geometry.sizes
    ]
    splits = (x for x in made.program.definitions if isinstance(x, Space) and x.parts)
    if len(few) < len(made.blocks) or any(x.parts[0] == "t" for x in splits):
        return 1.0
    maker = _Maker(made.program, made.schedule, made.total, sys.maxsize, sys.maxsize)
    less = batch_bytes(made.schedule, maker.blocks(few, made.batch), made.batch, made.itemsize)
    own = batch_bytes(made.schedule, made.blocks, made.batch, made.itemsize)
    fixed = max(0.0, (LESS * less - own) / (LESS - 1))
    return min(1.0, fixed / max(own, made.batch * made.model, 1))


@dataclass(slots=True)
class _Maker:
    """Makes plans of blocks; those of one size have one plan, and normal forms are found once."""

    program: Program
    whole: Schedule
    total: int
    limit: int
    dense: int
    normal: Normal = field(default_factory=dict)

    def blocks(self, geometries: Sequence[Geometry], batch: int) -> tuple[BlockPlan, ...]:
        made: dict[tuple[object, ...], BlockPlan] = {}
        found = []
        for geometry in geometries:
            key = tuple(sorted(geometry.sizes.items())), geometry.count, geometry.repeated
            if key not in made:
                made[key] = self._block(geometry, batch)
            block = replace(made[key], geometry=geometry)
            found.append(shared(block, self.whole) if geometry.shares else block)
        return tuple(found)

    def _block(self, geometry: Geometry, batch: int) -> BlockPlan:
        sizes = lengths(self.program, {**geometry.sizes, "n": batch}, geometry.name)
        limit = max(1, self.limit // geometry.count)
        code = BlockCode(self.whole, sizes, self.total, limit, self.dense, self.normal)
        passes = tuple(code.pass_function(k) for k in range(1, self.whole.passes + 1))
        finish = tuple(code.finish_function(k) for k in range(self.whole.passes + 1))
        return counted(BlockPlan(geometry, sizes, passes, finish, code.results), self.whole)
