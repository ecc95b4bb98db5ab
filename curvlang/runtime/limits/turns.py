"""Blocks in turns: where the statistics of all blocks do not fit, groups of them are fitted one after the other.

Every group has passes of its own: the model runs as often as there are groups, the rest costs what it
cost. Sums are the same, since those of a block do not depend on other blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from curvlang.compiler.algebra.shapes import GramShape, LeafShape
from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.cost import elements
from curvlang.compiler.planning.plan import BlockPlan, Plan
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.runtime.limits.footprint import Phase, largest, reads_hessian

Blocks = Mapping[Partition, tuple[LayerBlock, ...]]
_EXACT = 8
_on_disk: ContextVar[bool] = ContextVar("results on disk", default=False)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """Blocks that are fitted together.

    Args:
        names: Of the blocks.
        plans: For them alone.
        blocks: Of the model, those that its passes read.
        phases: Predicted memory, with what earlier turns have left in it.
    """

    names: frozenset[str]
    plans: tuple[Plan, ...]
    blocks: Blocks
    phases: tuple[Phase, ...]


@contextmanager
def results_on_disk(there: bool = True) -> Iterator[None]:
    """Plan everything inside with results that are written and mapped, block by block."""
    token = _on_disk.set(there)
    try:
        yield
    finally:
        _on_disk.reset(token)


def in_turns(
    plans: Sequence[Plan],
    blocks: Blocks,
    measured: Callable[[Sequence[Plan], Blocks], tuple[Phase, ...]],
    have: int,
) -> tuple[Turn, ...]:
    """The fewest groups of blocks that fit one after the other; none where no number of them does.

    Args:
        plans: Plans of all blocks, which do not fit together.
        blocks: The model's blocks for each partition.
        measured: Predicted memory of plans with the blocks that they read.
        have: Bytes that are available.
    """
    if any(map(reads_hessian, plans)):
        return ()  # The whole Hessian is there whatever blocks are fitted.
    units = units_of(plans)
    weights = {unit: sum(map(operator_bytes, restricted(plans, unit))) for unit in units}
    for count in _counts(len(units)):
        groups = _packed(units, weights, count)
        turns = tuple(_turns(groups, plans, blocks, measured))
        if all(largest(turn.phases).bytes <= have for turn in turns):
            return turns
    return ()


def largest_turn(turns: Sequence[Turn]) -> Turn:
    """The turn that needs most."""
    return max(turns, key=lambda turn: largest(turn.phases).bytes)


def whole_plans(turns: Sequence[Turn]) -> tuple[Plan, ...]:
    """The plans of all turns together, each with all of its blocks."""
    return tuple(
        replace(same[0], blocks=tuple(block for p in same for block in p.blocks))
        for same in zip(*(turn.plans for turn in turns), strict=True)
    )


def restricted(plans: Sequence[Plan], names: frozenset[str]) -> tuple[Plan, ...]:
    """The plans for some blocks alone."""
    return tuple(
        replace(p, blocks=tuple(b for b in p.blocks if b.geometry.name in names)) for p in plans
    )


def operator_bytes(p: Plan) -> int:
    """Bytes of the tensors that the results of a plan hold."""
    return sum(_block_bytes(p, block) for block in p.blocks)


def _block_bytes(p: Plan, block: BlockPlan) -> int:
    known = p.schedule.indices
    found = 0
    for result in block.results.values():
        if isinstance(result.shape, LeafShape | GramShape):
            continue
        read = sum(
            block.copies(x) * elements(known[x], block.sizes)
            for x in result.code.reads
            if x in known
        )
        found += read + result.code.elements
    return _EXACT * found


def _turns(
    groups: Sequence[frozenset[str]],
    plans: Sequence[Plan],
    blocks: Blocks,
    measured: Callable[[Sequence[Plan], Blocks], tuple[Phase, ...]],
) -> Iterator[Turn]:
    kept = 0
    for names in groups:
        own, read = restricted(plans, names), _read(plans, blocks, names)
        phases = measured(own, read)
        if kept:
            phases = tuple(
                Phase(x.name, {**x.parts, "results of earlier turns": kept}) for x in phases
            )
        yield Turn(names, own, read, phases)
        if not _on_disk.get():
            kept += sum(map(operator_bytes, own))


def _read(plans: Sequence[Plan], blocks: Blocks, names: frozenset[str]) -> Blocks:
    """The blocks of the model that the passes of a turn read: columns of the whole model need all."""
    if any(p.partition == Partition.MODEL and p.blocks for p in restricted(plans, names)):
        return blocks
    return {by: tuple(b for b in found if b.name in names) for by, found in blocks.items()}


def units_of(plans: Sequence[Plan]) -> list[frozenset[str]]:
    """Names that stay together: blocks with one input share what follows from it."""
    with_first: dict[str, set[str]] = {}
    for p in plans:
        for block in p.blocks:
            name = block.geometry.name
            first = block.geometry.shares or name
            unit = with_first.get(first) or with_first.get(name) or set()
            unit |= {first, name}
            with_first |= dict.fromkeys(unit, unit)
    return [*dict.fromkeys(frozenset(unit) for unit in with_first.values())]


def _counts(most: int) -> Iterator[int]:
    """Numbers of groups that are tried: few first, then by steps of about a third."""
    count = 2
    while count < most:
        yield count
        count += max(1, count // 3)
    if most > 1:
        yield most


def _packed(
    units: Sequence[frozenset[str]], weights: Mapping[frozenset[str], int], count: int
) -> list[frozenset[str]]:
    """So many groups of about one weight: the heaviest first, each to the lightest group."""
    groups: list[frozenset[str]] = [frozenset()] * count
    held = [0] * count
    for unit in sorted(units, key=lambda unit: -weights[unit]):
        lightest = held.index(min(held))
        groups[lightest] |= unit
        held[lightest] += weights[unit]
    return groups
