"""Contestants in processes of their own, run in turns: medians, ratios, peaks, and agreement first.

A contestant is a function of a workload's sizes that builds its inputs and returns what runs one
turn. A turn is told its stages by a `Watch`, and returns results by name; results that two
contestants share must agree before a ratio of their times is printed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import statistics
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from curvlang.costs.rates import Watch, difference

AGREEMENT = 1e-4
"""Largest difference of two results, relative to the largest entry, in float32."""
DISTURBED = 0.05
"""Share of the time of its threads that a turn may wait for the processor without a warning."""

Sizes = Mapping[str, Any]
Results = dict[str, Tensor]
Turn = Callable[[Watch], Results]
Make = Callable[[Sizes], Turn]


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant: the module and the name of its `Make`, and whether its times are scaled up.

    `partly` names what was run of the whole where the rest is extrapolated, in words; `differs` by how
    much its results may differ from ours.
    """

    module: str
    function: str
    partly: str = ""
    differs: float = AGREEMENT

    def make(self) -> Make:
        return getattr(importlib.import_module(self.module), self.function)


@dataclass(slots=True)
class Standing:
    """What a contestant did: seconds of every turn by stage, by the clock and of processors, the peak, its results.

    `differs` is the largest difference to ours over the results that both have, None where they
    share none; `allowed` how large it may be.
    """

    name: str
    partly: str = ""
    allowed: float = AGREEMENT
    turns: list[dict[str, float]] = field(default_factory=list)
    processor: list[dict[str, float]] = field(default_factory=list)
    peak: int = 0
    disturbed: float = 0.0
    results: Results = field(default_factory=dict)
    failure: str = ""
    differs: float | None = None

    def median(self, stage: str) -> float:
        return statistics.median(turn[stage] for turn in self.turns)

    @property
    def stages(self) -> list[str]:
        return list(self.turns[0]) if self.turns else []

    @property
    def agrees(self) -> bool:
        return self.differs is None or self.differs <= self.allowed


def contest(entries: Mapping[str, Entry], sizes: Sizes, small: Sizes, turns: int) -> list[Standing]:
    """Run all contestants of a workload in turns; ours first in every round.

    Each has gone through a turn of `small` sizes before, which is not counted: imports, parsers
    and kernels are loaded by then.
    """
    standings = [Standing(name, entry.partly, entry.differs) for name, entry in entries.items()]
    workers = [_Worker(entry, sizes, small) for entry in entries.values()]
    try:
        # A turn begins when nobody loads or builds any more: they would share its processors.
        for standing, worker in zip(standings, workers, strict=True):
            worker.wait(standing)
        for number in range(turns):
            for standing, worker in zip(standings, workers, strict=True):
                if not standing.failure:
                    worker.turn(standing, last=number == turns - 1)
    finally:
        for worker in workers:
            worker.stop()
    ours = standings[0]
    for standing in standings[1:]:
        common = standing.results.keys() & ours.results.keys()
        if common:
            pairs = [(standing.results[k], ours.results[k]) for k in common]
            standing.differs = max(difference(a, b) for a, b in pairs)
    return standings


class _Worker:
    """One contestant in a fresh process; it waits while the others run."""

    def __init__(self, entry: Entry, sizes: Sizes, small: Sizes) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, entry, dict(sizes), dict(small))
        )
        self.process.start()
        theirs.close()

    def wait(self, standing: Standing) -> None:
        """Until the inputs are built and a small turn has been run."""
        self._answer(standing)

    def turn(self, standing: Standing, *, last: bool) -> None:
        self.pipe.send("last" if last else "turn")
        found = self._answer(standing)
        if found is None:
            return
        seconds, processor, peak, disturbed, results = found
        standing.turns.append(seconds)
        standing.processor.append(processor)
        standing.peak = max(standing.peak, peak)
        standing.disturbed = max(standing.disturbed, disturbed)
        standing.results = {k: torch.from_numpy(v) for k, v in results.items()}

    def _answer(self, standing: Standing) -> Any:
        """What the process says; None where it failed, or has nothing to say but that it is ready."""
        try:
            found = self.pipe.recv()
        except EOFError:
            standing.failure = f"the process ended with {self.process.exitcode}"
            return None
        if isinstance(found, str):
            standing.failure = found
            return None
        return found

    def stop(self) -> None:
        if self.process.is_alive():
            self.pipe.send(None)
        self.pipe.close()
        self.process.join()


def _serve(pipe: Connection, entry: Entry, sizes: Sizes, small: Sizes) -> None:
    """Build once, then a turn for every message."""
    try:
        entry.make()(small)(Watch(torch.device("cpu")))
        turn = entry.make()(sizes)
        pipe.send(None)
        while (asked := pipe.recv()) is not None:
            watch = Watch(torch.device("cpu"))
            results = turn(watch)
            peak = max(watch.peaks.values())
            arrays = {k: v.numpy() for k, v in results.items()} if asked == "last" else {}
            pipe.send((watch.seconds, watch.processor, peak, watch.disturbed, arrays))
    except Exception:
        pipe.send(traceback.format_exc(limit=-2))
        while pipe.recv() is not None:
            continue
