"""EK-FAC of a large model in stages that are killed and go on: seconds, peak memory, and what was predicted.

python -m tests.bench.resumed [--workload i] [--quick] [--folder DIR] [--kill SECONDS] [--memory 4GiB]

Each stage is a process of its own: `fit` keeps the factors in a store, `scores` writes scores.zarr. A first
process of each is killed after some seconds, and the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import curvlang as cv
from curvlang.compiler.planning.cost import total
from curvlang.costs.predicted import predicted_fit, predicted_trial
from curvlang.costs.rates import measured_rates, peak_bytes, reset_peak
from curvlang.diagnostics.free_memory import gibibytes
from curvlang.runtime.limits.memory import limited
from tests.bench.contestants.attribution import DAMPING
from tests.bench.contestants.inputs import task
from tests.bench.predict import prepared_fit
from tests.bench.workloads import chosen

SPEC = "ekfac_empirical"
STAGES = ("fit", "scores")


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.resumed", description=__doc__)
    parser.add_argument(
        "--workload", default="i", help="letter of a workload of scores: a, b, c, i"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--folder", type=Path, default=None, help="of the stores; a new one")
    parser.add_argument("--kill", type=float, default=60.0, help="seconds of the first processes")
    parser.add_argument("--memory", default=None, help="limit of each process")
    parser.add_argument("--stage", choices=("predict", *STAGES), default=None, help="run it here")
    return parser.parse_args(given)


def run(said: argparse.Namespace) -> None:
    """One stage, in this process."""
    made = task(chosen(said.workload, said.quick)[0].sizes(said.quick))
    factors, scores = str(said.folder / "factors"), str(said.folder / "scores.zarr")
    if said.stage == "predict":
        with limited(said.memory):
            prepared = prepared_fit(SPEC, made)
            rates = measured_rates(torch.device("cpu"))
            trial = predicted_trial(prepared, made, rates)
            stages = [trial, *predicted_fit(prepared, made, rates)]
        seconds = sum(p.seconds or 0.0 for p in stages)
        peak = max(phase.bytes for phase in prepared.phases)
        flops = total(p.cost for p in stages).flops
        print(f"fit: {seconds:.0f} s, {gibibytes(peak)}, {flops:.3g} FLOP predicted")
        print(f"of these {trial.seconds or 0.0:.1f} s before the first pass")
        return
    reset_peak(torch.device("cpu"))
    start = time.perf_counter()
    if said.stage == "fit":
        cv.fit(SPEC, made, store=factors, memory=said.memory, progress=False)
        more = ""
    else:
        setup = cv.Setup(store=factors, memory=said.memory, dtype=made.precision)
        asked = cv.score_request(SPEC, made, cv.Scoring(damping=DAMPING), setup, out=scores)
        report = asked.run(progress=False)
        more = f", {report.found[0]} of {report.found[1]} chunks were there"
        more += "" if report.predicted is None else f", {gibibytes(report.predicted)} predicted"
    peak = gibibytes(peak_bytes(torch.device("cpu")))
    print(f"{said.stage}: {time.perf_counter() - start:.1f} s, peak {peak}{more}")


def main(given: list[str] | None = None) -> int:
    """All stages, each in a process that is killed and one that goes on."""
    said = arguments(given)
    if said.stage is not None:
        run(said)
        return 0
    with tempfile.TemporaryDirectory() as own:
        folder = said.folder or Path(own)
        here = [sys.executable, "-m", "tests.bench.resumed", "--workload", said.workload]
        here += ["--folder", str(folder), *(["--quick"] if said.quick else [])]
        here += ["--memory", said.memory] if said.memory else []
        subprocess.run([*here, "--stage", "predict"], check=True)
        for stage in STAGES:
            process = subprocess.Popen([*here, "--stage", stage], start_new_session=True)
            try:
                process.wait(said.kill)
                print(f"{stage}: done before it was killed")
                continue
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            print(f"{stage}: killed after {said.kill:g} s", flush=True)
            subprocess.run([*here, "--stage", stage], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
