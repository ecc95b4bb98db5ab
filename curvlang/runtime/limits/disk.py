"""Predicted bytes of a fit in a store, while it runs and when it is done; refused before the work where the disk is too full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curvlang.compiler.planning.chunks import Chunks
from curvlang.compiler.planning.cost import elements
from curvlang.compiler.planning.plan import BlockPlan, Plan
from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.runtime.limits.footprint import sum_bytes
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.processes.distributed import world

_EXACT = 8
"""Bytes of a statistic."""
FILE = 4096
"""Bytes that a file takes beside its tensors: its header, its text, and the end of its last block."""


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes of a fit in a store.

    Args:
        results: Of the finished curvature.
        peak: The most that lies there at a time: beside results the sums of a pass, and what follows from
            passes.
    """

    results: int
    peak: int


def disk_use(prepared: Preparation) -> DiskUse:
    """What a run writes: by the shapes of its plans alone."""
    done = peak = 0
    for turn in prepared.in_turns():
        own = sum(_result_bytes(turn))
        peak = max(peak, done + max(_moments(turn, own)))
        done += own
    return DiskUse(done, peak)


@dataclass(frozen=True, slots=True)
class Claim:
    """Files that a run is going to write.

    Args:
        path: The store or file, or where it will be.
        final: Bytes when the run is done.
        peak: Bytes at the most, where those are more; they are there before other files are begun.
        there: Bytes of them that it has already.
        what: Whether it is a store, a file or a folder.
    """

    path: Path
    final: int
    peak: int = 0
    there: int = 0
    what: str = "store"


def require_space(*claims: Claim) -> None:
    """Refuse a run whose files will not fit on the disk; those on one disk are counted together.

    Raises:
        MachineError: E0841.
    """
    disks: dict[int, list[Claim]] = {}
    for claim in claims:
        disks.setdefault(_above(claim.path).stat().st_dev, []).append(claim)
    for on_one in disks.values():
        peak = max(c.peak - c.there for c in on_one)
        needed = max(peak, sum(max(0, c.final - c.there) for c in on_one))
        free = shutil.disk_usage(_above(on_one[0].path)).free
        if needed <= free:
            continue
        named = " and ".join(f"the {c.what} `{c.path}`" for c in on_one)
        need = "needs" if len(on_one) == 1 else "need together"
        raise MachineError(
            Diagnostic(
                Code.E0841,
                f"{named} {need} up to {size(needed)} of space, and {size(free)} are free",
                help=("free some space, or name a folder on another disk",),
            )
        )


def _above(path: Path) -> Path:
    """The path, or the folder above it that there is."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _moments(prepared: Preparation, results: int) -> Iterator[int]:
    """Bytes of a turn at the moments when they are most."""
    known, copies = 0, _copies(prepared.chunks)
    for number in range(1, max((p.passes for p in prepared.plans), default=0) + 1):
        active = [p for p in prepared.plans if p.passes >= number]
        sums = sum(sum_bytes(p)[number - 1] for p in active)
        yield known + copies * (sums + FILE)
        known += sum(_after_bytes(p, number) for p in active)
        yield known + sums + FILE
    yield known + results


def _copies(chunks: Chunks) -> int:
    """Sums of a pass on the disk at a time: those of all processes, and new ones before older ones are removed."""
    processes = world()
    return 1 + sum(
        chunks.partial(processes.owned(chunks.count, rank)) for rank in range(processes.size)
    )


def _result_bytes(prepared: Preparation) -> Iterator[int]:
    for chain in prepared.chains:
        for result in chain:
            for part in result.parts:
                plan = prepared.plan_of(part)
                layers = {x.name: x.where.bytes for x in prepared.blocks.get(plan.partition, ())}
                for block in plan.blocks:
                    code = block.results[part.value].code
                    made = {x.target: x.count * x.elements for x in code.lines}
                    known = _known(plan, block) | made
                    found = sum(known.get(name, block.count) for name in code.returned.values())
                    places = layers.get(block.geometry.name, 0)
                    yield _EXACT * found + places + FILE


def _after_bytes(plan: Plan, number: int) -> int:
    """Bytes of the files with what follows from a pass: what later code reads, block by block."""
    found = 0
    for block in plan.blocks:
        there = {name for function in block.finish[: number + 1] for name in function.returned}
        there |= {x.target.name for function in block.passes[:number] for x in function.parts}
        there |= {name for name, leaf in plan.program.leaves.items() if not leaf.per_example}
        known = _known(plan, block)
        kept = sum(known[name] for name in block.read_after(number) & there)
        found += _EXACT * kept + FILE
    return found


def _known(plan: Plan, block: BlockPlan) -> dict[str, int]:
    """Elements of every tensor that lasts longer than a function, by name."""
    targets = {x.target.name: x.target.indices for f in block.passes for x in f.parts}
    named = {**plan.schedule.indices, **targets}
    return {name: block.copies(name) * elements(own, block.sizes) for name, own in named.items()}
