"""What every shipped curvature and score costs beside what its plan says, in one table: `python -m tests.bench.methods`.

Each is fitted, inverted and scored once on the task that its spec names, else on a small perceptron; seconds are of the
processor, those of the rates too; memory is that of a process of its own. Written: `docs/results/benchmarks/methods.json`, and the table of docs/benchmarks.md to the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
from curvlang.runtime.limits.freed import return_soon
from tests.bench.clock import processor_clock
from tests.bench.formulas.__main__ import lines as of_scores
from tests.bench.formulas.__main__ import shipped_formulas

TASK = "digits(hidden = [24], epochs = 1)"
"""Of specs that name no task."""
FILE = Path("docs/results/benchmarks/methods.json")
FILES = {x.stem for x in Path("specs").glob("*.cv")}
"""Specs with a file of their own."""
RETURNED = 2**25
"""A limit under which the C library returns what is freed: memory is measured under it."""


def curvatures() -> list[str]:
    """Every curvature that ships."""
    return sorted(x.name for x in shipped() if x.kind == "curvature" and x.name in FILES)


def measured(name: str) -> Benchmark:
    """The stages of one curvature, predicted and measured, on one thread."""
    torch.set_num_threads(1)
    spec = load(name)
    curvature = chosen(spec)
    said = evaluation_of(spec, curvature)
    own = said is not None and said.task.name != "digits"
    task = cv.task(said.task if own and said is not None else TASK)
    inverse, solver = (None, None) if said is None else (said.inverse, said.solver)
    return benchmark(curvature, task, inverse=inverse, solver=solver)


def memory(name: str) -> tuple[int, int]:
    """The largest bytes predicted and held, of the stages that have a prediction."""
    return_soon(RETURNED)
    known = [x for x in measured(name).rows if x.memory is not None]
    return max(x.memory or 0 for x in known), max(x.peak for x in known)


def alone(name: str) -> tuple[int, int]:
    """`memory` in a process of its own: what another one has let go is not held there."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(memory, name).result()


def row(name: str) -> dict[str, Any]:
    """One curvature as plain values; a reason in place of numbers where it is refused."""
    try:
        with processor_clock():
            found = measured(name)
        predicted_bytes, measured_bytes = alone(name)
    except SpecError as error:
        return {"name": name, "refused": error.diagnostics[0].headline}
    timed = [x for x in found.rows if x.seconds is not None]
    return {
        "name": name,
        "task": found.task,
        "operations": sum(x.flops for x in found.rows),
        "predicted_seconds": sum(x.seconds or 0.0 for x in timed),
        "measured_seconds": sum(x.measured for x in timed),
        "predicted_bytes": predicted_bytes,
        "measured_bytes": measured_bytes,
        "stages": [[x.stage, x.flops, x.seconds, x.measured] for x in found.rows],
    }


def lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table in Markdown."""
    yield "| curvature, or score under a curvature | operations | seconds predicted | measured | ratio | memory predicted | measured |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for x in rows:
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
        rows.append(row(name))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "stages"}), flush=True)
    if not names:
        kept = {"torch": torch.__version__, "threads": 1, "rows": rows}
        FILE.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print("\n".join(lines(rows)))
    if not names:
        torch.set_num_threads(1)
        with processor_clock():
            print("\n".join(of_scores(shipped_formulas())))


if __name__ == "__main__":
    main(sys.argv[1:])
