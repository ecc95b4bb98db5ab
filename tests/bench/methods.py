"""What every shipped curvature costs beside what its plan says: `python -m tests.bench.methods`.

Each is fitted, inverted and scored once on the task that its spec names, else on a small perceptron; seconds are of the
processor. Written: `docs/results/benchmarks/methods.json`, and the table of docs/benchmarks.md to the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import curvlang as cv
from curvlang.costs.benchmark import Benchmark, benchmark
from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.facade import chosen
from curvlang.language import load
from curvlang.language.checking.shipped import shipped
from curvlang.language.selection import evaluation_of

TASK = "digits(hidden = [24], epochs = 1)"
"""Of specs that name no task."""
FILE = Path("docs/results/benchmarks/methods.json")
FILES = {x.stem for x in Path("specs").glob("*.cv")}
"""Specs with a file of their own."""
TURNS = 2
"""Runs of each, of which the one with the least seconds is kept."""


def curvatures() -> list[str]:
    """Every curvature that ships."""
    return sorted(x.name for x in shipped() if x.kind == "curvature" and x.name in FILES)


def measured(name: str) -> Benchmark:
    """The stages of one curvature, predicted and measured."""
    spec = load(name)
    curvature = chosen(spec)
    said = evaluation_of(spec, curvature)
    own = said is not None and said.task.name != "digits"
    task = cv.task(said.task if own and said is not None else TASK)
    inverse, solver = (None, None) if said is None else (said.inverse, said.solver)
    runs = (benchmark(curvature, task, inverse=inverse, solver=solver) for _ in range(TURNS))
    return min(runs, key=lambda x: x.measured)


def row(name: str) -> dict[str, Any]:
    """One curvature as plain values; a reason in place of numbers where it is refused."""
    try:
        found = measured(name)
    except SpecError as error:
        return {"name": name, "refused": error.diagnostics[0].headline}
    known = [x for x in found.rows if x.memory is not None]
    highest = max(known, key=lambda x: x.memory or 0)
    return {
        "name": name,
        "task": found.task,
        "operations": sum(x.flops for x in found.rows),
        "predicted_seconds": found.predicted,
        "measured_seconds": found.measured,
        "predicted_bytes": highest.memory,
        "measured_bytes": max(x.peak for x in found.rows),
        "stages": [[x.stage, x.flops, x.seconds, x.measured, x.memory, x.peak] for x in found.rows],
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
    torch.set_num_threads(1)
    rows = []
    for name in names or curvatures():
        rows.append(row(name))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "stages"}), flush=True)
    if not names:
        kept = {"torch": torch.__version__, "threads": 1, "rows": rows}
        FILE.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main(sys.argv[1:])
