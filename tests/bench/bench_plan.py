"""Seconds of a processor that plans take: for a decoder of 25 blocks, of one width or of many.

python -m tests.bench.bench_plan
"""

from __future__ import annotations

import time
from collections.abc import Callable

from curvlang.compiler.derive.derive import derive
from curvlang.compiler.planning.plan import Geometry
from curvlang.compiler.planning.planner import plan
from curvlang.language import load
from curvlang.language.partition import Partition

BLOCKS, TURNS = 25, 5
MEMORY = 10**12
"""So much that one plan is enough."""


def decoder(width: Callable[[int], int]) -> list[Geometry]:
    """Queries, keys and values of one input, what follows them, and the two layers after them."""
    found = []
    for k in range(BLOCKS):
        wide = width(k)
        one = {"t": 8, "r": 3, "o": wide, "i": wide}
        found += [
            Geometry(f"{k}.query", one),
            Geometry(f"{k}.key", one, shares=f"{k}.query"),
            Geometry(f"{k}.value", one, shares=f"{k}.query"),
            Geometry(f"{k}.out", one),
            Geometry(f"{k}.up", one | {"o": 4 * wide}),
            Geometry(f"{k}.down", one | {"i": 4 * wide}),
        ]
    return found


def seconds(name: str, geometries: list[Geometry]) -> float:
    """The shortest of some turns."""
    programs, _ = derive(list(load(name).curvatures.values()))
    layered = [p for p in programs if p.partition == Partition.LAYER and not p.others]
    times = []
    for _ in range(TURNS):
        start = time.process_time()
        for program in layered:
            plan(program, geometries, 1000, memory=MEMORY)
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    for title, width in (("one width", lambda k: 64), ("25 widths", lambda k: 32 + k)):
        for name in ("ekfac", "nearest_kronecker"):
            print(f"{name:20} {title:10} {seconds(name, decoder(width)):8.3f} s")


if __name__ == "__main__":
    main()
