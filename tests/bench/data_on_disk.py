"""Memory of fits, scores and evaluations of data on disk beside its prediction; run by hand.

`python -m tests.bench.data_on_disk --memory 96MiB` writes images that take eight times as much as `--memory`
allows, and prints every stage's peak above what the process held before, beside what was predicted.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import curvlang as cv
from curvlang.costs.benchmark import benchmark
from curvlang.costs.rates import Watch
from curvlang.language import load
from curvlang.language.selection import chosen
from curvlang.models.task import Task
from curvlang.runtime.limits.memory import amount, limited

SHAPE = (3, 64, 64)
TIMES = 8
SPEC = "ekfac"


@dataclass(frozen=True)
class Peak:
    """A stage's peak memory above the start, and its prediction."""

    stage: str
    predicted: int
    measured: int


def model() -> nn.Module:
    """Few parameters and little work for every byte of an image."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 2, 4, stride=4), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(32, 2)).eval()


def written(folder: Path, examples: int) -> Path:
    """Random images in an npy file, written in pieces."""
    path, rng = folder / "x.npy", np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (examples, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, examples, 256):
            count = min(256, examples - start)
            file.write(rng.standard_normal((count, *SHAPE), dtype="f4").tobytes())
    return path


def task_of(path: Path) -> Task:
    """Images on disk; their classes and four queries in memory."""
    x = cv.rows(path)
    y = torch.arange(len(x)) % 2
    return cv.Task(model(), "cross_entropy", (x, y), (x[:4], y[:4]))


def peaks(path: Path, memory: int) -> Iterator[Peak]:
    """Every stage of a fit, its inverse, scores, and an evaluation of all steps."""
    spec = load(SPEC)
    with limited(memory):
        task = task_of(path)
        # What torch itself loads when it first differentiates so is its own.
        cv.evaluate(spec, task.examples(slice(8)), dtype=task.dtype, damping=0.1, progress=False)
        found = benchmark(chosen(spec, None), task)
        largest = max(row.memory or 0 for row in found.rows)
        yield from (Peak(r.stage, r.memory, r.peak) for r in found.rows if r.memory)
        watch = Watch(task.device)
        cv.evaluate(spec, task, dtype=task.dtype, damping=0.1, progress=False)
        watch("eval")
        yield Peak("eval", max(largest, cv.explain(spec, task).peak), watch.peaks["eval"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", default="96MiB")
    memory = amount(parser.parse_args().memory)
    examples = TIMES * memory // (4 * int(np.prod(SHAPE)))
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), examples)
        size = path.stat().st_size / 2**20
        print(f"{examples} images, {size:.0f} MiB on disk, memory {memory / 2**20:.0f} MiB")
        rows = list(peaks(path, memory))
    for row in rows:
        predicted, measured = row.predicted / 2**20, row.measured / 2**20
        print(f"{row.stage:14s} predicted {predicted:7.1f} MiB  measured {measured:7.1f} MiB")
    most, wanted = max(r.measured for r in rows), max(r.predicted for r in rows)
    print(f"peak: {most / 2**20:.1f} MiB, {most / wanted:.2f} of the prediction")


if __name__ == "__main__":
    main()
