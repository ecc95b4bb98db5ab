"""Progress shown: bars on a terminal, timed lines on standard error elsewhere, and a log in the store."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from curvlang.diagnostics.values import another_type
from curvlang.runtime.processes.launch import announced
from curvlang.runtime.progress.bars import TerminalBars
from curvlang.runtime.progress.lines import line, pause
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.progress.log import RankLog
from curvlang.runtime.progress.stages import Stage, Stages

BEAT = 1.0
"""Seconds between two looks at a stage that reports nothing itself."""

Forecast = Callable[[Any, Any], Mapping[str, float]]
"""Seconds of every stage by the plans of a run and its task; nothing where it is soon done."""


class Bars:
    """A context in which `bars(name, done, total)` shows progress.

    A name may say behind `: ` how the work goes, `cg: residual 3e-4`. Of several processes the first
    one shows it; each writes its own log where there is a store.

    Args:
        quiet: Never show anything.
        command: What runs, named in every line.
        store: The folder of a store, whose log has every line too.
        forecast: What predicts the seconds of the stages.
    """

    def __init__(
        self,
        quiet: bool = False,
        command: str = "",
        store: str | os.PathLike[str] | None = None,
        forecast: Forecast | None = None,
    ) -> None:
        rank, size = place()
        self.on = rank == 0 and not quiet
        self.who = f"{command}, rank {rank} of {size}" if size > 1 else command
        self.log = None if store is None else RankLog(Path(store), rank)
        self.terminal = TerminalBars() if self.on and sys.stderr.isatty() else None
        self.forecast = forecast
        self.began = self.last = time.monotonic()
        self.stages = Stages(self.began)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._beats: threading.Thread | None = None

    def __enter__(self) -> Bars:
        """Start."""
        self.began = self.last = time.monotonic()
        self.stages = Stages(self.began)
        if self.log is not None:
            self.log.write(f"{self.who}: begins, process {os.getpid()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away, and log how it ended."""
        self._over.set()
        if self._beats is not None:
            self._beats.join()
        if self.terminal is not None:
            self.terminal.stop()
        if self.log is not None:
            how = "done" if kind is None else f"{kind.__name__}: {error}"
            self.log.write(f"{self.who}: {how}, after {time.monotonic() - self.began:.0f} s")

    def __call__(self, name: str, done: int, total: int) -> None:
        """`done` of `total` of the work called `name`."""
        if not self._heard:
            return
        key, _, how = name.partition(": ")
        with self._lock:
            now = time.monotonic()
            stage = self.stages.report(now, key, done, total, how)
            self._show(stage, now)
        self._beat(now)

    def planned(self, prepared: Any, task: Any) -> None:
        """Predict the stages of a run, where it takes long."""
        found = self.forecast(prepared, task) if self._heard and self.forecast else {}
        if found:
            with self._lock:
                self.stages.foresee(found, time.monotonic())
            self._beat(time.monotonic(), at_once=True)

    def ended(self, stage: str) -> None:
        """A stage of the run has ended."""
        if not self._heard:
            return
        with self._lock:
            now = time.monotonic()
            over = self.stages.end(now, stage)
            if over is not None:
                self._close(over, now)

    @property
    def _heard(self) -> bool:
        return self.on or self.log is not None

    def _show(self, stage: Stage, now: float) -> None:
        if self.terminal is not None:
            self.terminal.show(stage, now)
        if stage.finished:
            self._close(stage, now)
        elif now - self.last >= pause(self.last - self.began):
            self.last = now
            stage.said = True
            self._say(line(self.who, self.stages, stage, now))

    def _close(self, stage: Stage, now: float) -> None:
        """A last line about a stage that had lines."""
        if self.terminal is not None:
            self.terminal.end(stage)
        if stage.said:
            stage.said = False
            self.last = now
            self._say(line(self.who, self.stages, stage, now))

    def _say(self, text: str) -> None:
        if self.on and self.terminal is None:
            print(text, file=sys.stderr, flush=True)
        if self.log is not None:
            self.log.write(text)

    def _beat(self, now: float, at_once: bool = False) -> None:
        """Look at the present stage again from time to time, once the work takes long."""
        if self._beats is None and (at_once or now - self.began > BEAT):
            self._beats = threading.Thread(target=self._look, name="progress", daemon=True)
            self._beats.start()

    def _look(self) -> None:
        while not self._over.wait(BEAT):
            with self._lock:
                stage = self.stages.present
                if stage is not None and not stage.finished:
                    self._show(stage, time.monotonic())


def place() -> tuple[int, int]:
    """The number of this process, and of how many; joins no group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return announced()


@contextmanager
def shown(
    progress: ProgressOption,
    command: str,
    *,
    store: str | os.PathLike[str] | None = None,
    forecast: Forecast | None = None,
) -> Iterator[Progress | None]:
    """What a run notifies: what the caller has asked for by `progress`.

    Args:
        progress: `True` to show it, `False` or `None` for nothing, or a function of the caller's.
        command: What runs, named in every line.
        store: The folder of a store, for its log.
        forecast: What predicts the seconds of the stages.

    Raises:
        SpecError: E0563 for something else.
    """
    _check(progress)
    if isinstance(progress, Bars) or (callable(progress) and store is None):
        yield progress
    elif not progress and store is None:
        yield None
    else:
        with Bars(progress is not True, command, store, forecast) as bars:
            yield _both(progress, bars) if callable(progress) else bars


def _check(progress: object) -> None:
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        wanted = "a truth value or a function of a name, what is done and how much there is"
        raise another_type("progress", progress, wanted, "`progress=False`, or a function")


def _both(one: Progress, other: Progress) -> Progress:
    def told(name: str, done: int, total: int) -> None:
        one(name, done, total)
        other(name, done, total)

    return told
