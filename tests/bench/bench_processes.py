"""Fits and scores by two processes of one thread each against one, in turns, on the workloads of the suite.

python -m tests.bench.bench_processes [--workload ab] [--turns 3] [--quick]
"""

from __future__ import annotations

import argparse
import time

import torch

import curvlang as cv
from curvlang.runtime.processes.distributed import world
from tests.bench.contestants.inputs import DAMPING, task
from tests.bench.workloads import chosen
from tests.processes import together

HOUR = 3600.0


def timed(sizes):
    """Seconds of a fit and of its scores, from when all processes begin; the scores' sum as a check."""
    made = task(sizes)
    cv.influence(cv.fit("ekfac_empirical", few := made.examples(slice(8))), few, damping=DAMPING)
    here = world()
    with here.run():
        here.exchange("ready", "")
    begun = time.perf_counter()
    op = cv.fit("ekfac_empirical", made, progress=False)
    fitted = time.perf_counter()
    scores = cv.influence(op, made, damping=DAMPING, progress=False)
    return [
        fitted - begun,
        time.perf_counter() - fitted,
        float(torch.as_tensor(scores).double().norm()),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", default="ab")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    said = parser.parse_args()
    for workload in chosen(said.workload, said.quick):
        sizes = workload.sizes(said.quick)
        best = {1: [HOUR, HOUR], 2: [HOUR, HOUR]}
        for _ in range(said.turns):
            for size, least in best.items():
                # A stage is over when the last process is done with it.
                found = together(timed, size, sizes, limit=HOUR)
                for k in (0, 1):
                    least[k] = min(least[k], max(x[k] for x in found))
        print(workload.about)
        for k, stage in enumerate(("fit", "scores")):
            one, two = best[1][k], best[2][k]
            print(
                f"  {stage}: {one:.3f} s by one process, {two:.3f} s by two, {one / two:.2f} times"
            )


if __name__ == "__main__":
    main()
