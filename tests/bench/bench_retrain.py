"""Retraining M models at once against the plain PyTorch loop, in one run: ratio and difference.

python -m tests.bench.bench_retrain [--depth 1] [--models 500] [--loop 10] [--full]

The loop trains one model after the other, all alike in cost; without --full it is timed on --loop of
them and the median is multiplied by the number of models. The stacked training always runs in full.
On a machine with other work both are slowed, and not alike: the ratio of CPU seconds, which waiting
for the processor does not enter, stands beside the ratio of elapsed ones. With several threads CPU
seconds count all of them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from curvlang.evaluation.retrain import retrain
from curvlang.evaluation.subsets import draw_subsets
from curvlang.language import task_text
from curvlang.models.builtin import task_from
from tests.evaluation.test_retrain import reference_loop


def clocks() -> np.ndarray:
    """Elapsed and CPU seconds of this process, all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--loop", type=int, default=10, help="models of the plain loop")
    parser.add_argument("--full", action="store_true", help="run the plain loop over all models")
    given = parser.parse_args()
    task = task_from(task_text(f"digits(hidden = [16] * {given.depth})", "bench"))
    kept = draw_subsets(task.N, -(-given.models // 5), 0.5, 0).repeat(5, 1)[: given.models]
    seeds = list(range(given.models))
    start = clocks()
    found = retrain(
        task.build, "cross_entropy", task.train, task.query, kept, task.recipe, seeds, seeds
    )
    ours = clocks() - start
    count = given.models if given.full else given.loop
    times, gaps = [], []
    for m in range(count):
        start = clocks()
        curve, _ = reference_loop(
            task.build, "cross_entropy", task.train, kept[m], task.recipe, m, m
        )
        times.append(clocks() - start)
        gaps.append(float((found.curve[m] - curve).abs().max()))
    taken = np.array(times)
    loop = taken.sum(0) if given.full else np.median(taken, 0) * given.models
    print(f"{given.models} models, depth {given.depth}, {torch.get_num_threads()} threads")
    how = "all timed" if given.full else f"median of {count} timed models × {given.models}"
    for name, a, b in zip(("elapsed", "CPU"), ours, loop, strict=True):
        print(f"{name:>7}: stacked {a:.2f} s, loop {b:.1f} s ({how}), ratio {b / a:.1f}")
    print(f"largest difference of a loss curve: {max(gaps):.2g}")


if __name__ == "__main__":
    main()
