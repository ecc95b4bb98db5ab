"""Fits in a store, killed at random moments and gone on with by another number of processes.

    python -m tests.longer.kills --count 50

A run of 1 or 2 processes is killed (SIGKILL, all of them at once or one alone); the same fit then goes on in 2
or 1. Its results are compared bit by bit with those of a fit that was not killed. Counted are the chunks that
both runs have worked on, and of those the ones that had been written: there should be none.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

import curvlang as cv
from curvlang.runtime.passes import chunk_pass
from tests.processes import started, together
from tests.runtime.stored.work import task

SPECS = {
    "ekfac": {"width": 120, "layers": 4, "N": 16000},
    "low_rank": {"width": 60, "layers": 3, "N": 12000},
    "kfac": {"width": 400, "layers": 3, "N": 3000},
    "etkfac": {"width": 250, "layers": 4, "N": 2500},
    "ekfac_mc": {"width": 100, "layers": 3, "N": 16000},
}
LIMIT = 300


def fit(spec, store, log):
    """A fit; every batch that is worked on is noted in a file, with the time when the first one was."""
    feed, place, begun = chunk_pass.PassWork.feed, cv.world(), []

    def noted(self, number, place, *given):
        begun.append(time.time())
        feed(self, number, place, *given)
        with path.open("a") as file:
            file.write(f"{number} {place[0]} {place[1]}\n")

    given = task(**SPECS[spec])
    path = Path(f"{log}.{place.rank}")
    path.touch()
    chunk_pass.PassWork.feed = noted
    try:
        op = cv.fit(spec, given, store=store, progress=False)
    finally:
        chunk_pass.PassWork.feed = feed
    # From the first batch on: what comes before leaves nothing to go on with.
    seconds = time.time() - begun[0] if begun else 0.0
    v = torch.linspace(-1, 1, op.shape[0], dtype=torch.float64)
    return [seconds, op @ v, op.inverse(0.1) @ v]


@dataclass
class Tally:
    """What the kills have shown."""

    kills: int = 0
    moments: Counter = field(default_factory=Counter)
    differing: int = 0
    batches: int = 0
    again: int = 0
    written_again: int = 0

    def __str__(self):
        return (
            f"{self.kills} kills ({', '.join(f'{n} {k}' for k, n in self.moments.items())}): "
            f"{self.differing} differing results; of {self.batches} batches {self.again} were worked on "
            f"twice, {self.written_again} of them although their sums had been written"
        )


def killed(spec, size, store, log, delay):
    """Start a fit, and kill it after so many seconds of work; whether it was at work."""
    with started(fit, size, spec, str(store), log) as (processes, _):
        logs = [Path(f"{log}.{rank}") for rank in range(size)]
        while not all(path.exists() and path.stat().st_size for path in logs):
            time.sleep(0.005)
        time.sleep(delay)
        working = all(process.is_alive() for process in processes)
        if random.random() < 0.3:
            random.choice(processes).kill()
            time.sleep(0.3)
    return working


def batches(log):
    """The batches that a run has worked on: pass, chunk, number."""
    return Counter(
        tuple(map(int, line.split()))
        for path in Path(log).parent.glob(f"{Path(log).name}.*")
        for line in path.read_text().splitlines()
        if len(line.split()) == 3
    )


def written(store):
    """What a killed run has left: of every pass the chunks, whole or begun; and the moment in words."""
    whole, begun, after = set(), {}, 0
    for path in store.glob("work/*/turn-*/*/*.safetensors"):
        number = int(path.parent.name.partition("-")[2])
        if path.parent.name.startswith("after"):
            after = max(after, number)
        elif found := re.fullmatch(r"(\d+)-(\d+)\.safetensors", path.name):
            whole |= {(number, k) for k in range(int(found[1]), int(found[2]))}
        elif found := re.fullmatch(r"(\d+)\+(\d+)\.safetensors", path.name):
            chunk = number, int(found[1])
            begun[chunk] = max(begun.get(chunk, 0), int(found[2]))
    return whole, begun, after


def moment(store):
    """When a run was killed, as its store shows it."""
    whole, begun, after = written(store)
    if list(store.glob("results/*/result.json")):
        return "when it was done"
    if list(store.glob("results/*/*.safetensors")):
        return "while results were written"
    if after:
        return f"after statistics of pass {after}"
    return "in pass 1, sums written" if whole or begun else "before anything was written"


def one(spec, first, then, whole, delay, tally):
    """A kill, and the run that goes on."""
    with tempfile.TemporaryDirectory() as folder:
        store, before, after = Path(folder) / "s", f"{folder}/before", f"{folder}/after"
        working = killed(spec, first, store, before, delay)
        tally.kills += working
        tally.moments[moment(store)] += 1
        kept, begun, _ = written(store)
        found = together(fit, then, spec, str(store), after, limit=LIMIT)
        same = all(
            torch.equal(x, y) for own in found for x, y in zip(own[1:], whole[1:], strict=True)
        )
        tally.differing += not same
        assert not list((store / "work").iterdir()), "work is left in the store"
        again = batches(before) & batches(after)
        tally.batches += len(batches(before) | batches(after))
        tally.again += len(again)
        tally.written_again += sum(
            (number, chunk) in kept or place < begun.get((number, chunk), 0)
            for number, chunk, place in again
        )


def main():
    """Kill as often as is asked for, and say what it has shown."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    random.seed(chosen.seed)
    tally, runs = Tally(), {}
    while tally.kills < chosen.count:
        spec = random.choice(list(SPECS))
        first = random.choice((1, 2))
        if spec not in runs:
            with tempfile.TemporaryDirectory() as folder:
                (runs[spec],) = together(fit, 1, spec, f"{folder}/s", f"{folder}/log", limit=LIMIT)
        whole = runs[spec]
        one(spec, first, 3 - first, whole, random.uniform(0, whole[0]), tally)
        print(tally, flush=True)
    return int(bool(tally.differing or tally.written_again))


if __name__ == "__main__":
    raise SystemExit(main())
