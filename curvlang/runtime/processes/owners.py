"""Which process computes what follows from the sums of which blocks: the longest first, each to who has least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curvlang.compiler.planning.plan import Plan
from curvlang.runtime.limits.turns import units_of


@dataclass(frozen=True, slots=True)
class Unit:
    """Blocks of a plan that stay together, since they share what follows from their input.

    Args:
        plan: The plan's number in the run.
        names: Of the blocks.
        cost: Operations that follow from their sums.
    """

    plan: int
    names: frozenset[str]
    cost: int


def units(plans: Sequence[Plan], number: int) -> list[Unit]:
    """What follows from a pass, in the order of the plans."""
    found = []
    for k, p in enumerate(plans):
        if p.passes < number:
            continue
        cost = {b.geometry.name: b.finish[number].flops for b in p.blocks}
        found += [Unit(k, names, sum(cost[x] for x in names)) for names in units_of([p])]
    return found


def owners(found: Sequence[Unit], processes: int) -> list[list[Unit]]:
    """The units of every process, in their order."""
    taken = [0] * processes
    owner = [0] * len(found)
    for k in sorted(range(len(found)), key=lambda k: -found[k].cost):
        owner[k] = taken.index(min(taken))
        # One without operations counts as well: it has bytes.
        taken[owner[k]] += max(1, found[k].cost)
    return [
        [u for u, r in zip(found, owner, strict=True) if r == rank] for rank in range(processes)
    ]
