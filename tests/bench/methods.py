"""What every shipped curvature costs beside what its plan says: `python -m tests.bench.methods`.

Each is fitted, inverted and scored once on the task that its spec names, else on a small perceptron; seconds are of the
processor. Written: `docs/results/benchmarks/methods.json`, and the table of docs/benchmarks.md to the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import curvlang as cv
from curvlang.costs.benchmark import Benchmark, Row, benchmark
from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.facade import chosen
from curvlang.language import load
from curvlang.language.checking.shipped import shipped
from curvlang.language.selection import evaluation_of
from curvlang.runtime.limits.freed import return_soon

TASK = "digits(hidden = [24], epochs = 1)"
"""Of specs that name no task."""
FILE = Path("docs/results/benchmarks/methods.json")
FILES = {x.stem for x in Path("specs").glob("*.cv")}
"""Specs with a file of their own."""
RETURNED = 2**25
"""A limit under which the C library returns what is freed: the second run is under it, and says what is held."""


def curvatures() -> list[str]:
    """Every curvature that ships."""
    return sorted(x.name for x in shipped() if x.kind == "curvature" and x.name in FILES)


def measured(name: str) -> list[Benchmark]:
    """The stages of one curvature, predicted and measured, twice: of every stage the least seconds are kept."""
    spec = load(name)
    curvature = chosen(spec)
    said = evaluation_of(spec, curvature)
    own = said is not None and said.task.name != "digits"
    task = cv.task(said.task if own and said is not None else TASK)
    inverse, solver = (None, None) if said is None else (said.inverse, said.solver)
    first = benchmark(curvature, task, inverse=inverse, solver=solver)
    return_soon(RETURNED)
    return [first, benchmark(curvature, task, inverse=inverse, solver=solver)]


def least(stages: Iterable[Row]) -> Row:
    """One stage of several runs: the least of what was predicted, of what it took, and of what it held."""
    own = list(stages)
    told = [x.seconds for x in own if x.seconds is not None]
    return replace(
        own[0],
        seconds=min(told) if told else None,
        measured=min(x.processor for x in own),
        peak=min(x.peak for x in own),
    )


def alone(name: str) -> dict[str, Any]:
    """`row` in a process of its own: what another one has let go is not held there."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(row, name).result()


def row(name: str) -> dict[str, Any]:
    """One curvature as plain values; a reason in place of numbers where it is refused."""
    torch.set_num_threads(1)
    try:
        found = measured(name)
    except SpecError as error:
        return {"name": name, "refused": error.diagnostics[0].headline}
    rows = [least(x) for x in zip(*(one.rows for one in found), strict=True)]
    known = [x for x in rows if x.memory is not None]
    timed = [x for x in rows if x.seconds is not None]
    return {
        "name": name,
        "task": found[0].task,
        "operations": sum(x.flops for x in rows),
        "predicted_seconds": sum(x.seconds or 0.0 for x in timed),
        "measured_seconds": sum(x.measured for x in timed),
        "predicted_bytes": max(x.memory or 0 for x in known),
        "measured_bytes": max(x.peak for x in known),
        "stages": [[x.stage, x.flops, x.seconds, x.measured, x.memory, x.peak] for x in rows],
    }


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table in Markdown."""
    yield "| curvature | operations | seconds predicted | measured | ratio | memory predicted | measured |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for x in rows:
        # Of a solver's products no stage is predicted.
        if "refused" in x or not x["predicted_seconds"]:
            continue
        told, took = x["predicted_seconds"], x["measured_seconds"]
        yield (
            f"| `{x['name']}` | {x['operations']:.1e} | {told:.3f} | {took:.3f} | {took / told:.2f} | "
            f"{size(x['predicted_bytes'])} | {size(x['measured_bytes'])} |"
        )


def main(names: Sequence[str]) -> None:
    """All shipped curvatures, or those that are named."""
    rows = []
    for name in names or curvatures():
        rows.append(alone(name))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "stages"}), flush=True)
    if not names:
        kept = {"torch": torch.__version__, "threads": 1, "rows": rows}
        FILE.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main(sys.argv[1:])
