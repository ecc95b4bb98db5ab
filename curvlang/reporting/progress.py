"""Progress on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

DELAY = 2.0
"""Seconds before a bar appears."""
EVERY = 10.0
"""Seconds between two lines of one name, and before the first."""


class Bars:
    """A context in which `bars(name, done, total)` shows progress.

    A name may say behind `: ` how the work goes, `cg: residual 3e-4`.

    Args:
        quiet: Never show anything.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.on = not quiet
        self.terminal = sys.stderr.isatty()
        self.started: dict[str, float] = {}
        self.said: dict[str, float] = {}
        self.tasks: dict[str, TaskID] = {}
        self.progress: Progress | None = None

    def __enter__(self) -> Bars:
        """Start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        if self.progress is not None:
            self.progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """`done` of `total` of the work called `name`."""
        if not self.on:
            return
        key, _, how = name.partition(": ")
        now = time.monotonic()
        since = self.started.setdefault(key, now)
        if self.terminal:
            self._bar(key, how, done, total, now - since)
        elif done < total and now - self.said.get(key, since) >= EVERY:
            self.said[key] = now
            print(_line(key, how, done, total, now - since), file=sys.stderr, flush=True)

    def _bar(self, key: str, how: str, done: int, total: int, elapsed: float) -> None:
        if key not in self.tasks and (elapsed < DELAY or done >= total):
            return
        if self.progress is None:
            self.progress = Progress(
                TextColumn("{task.description:>14}"),
                BarColumn(40),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[how]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.progress.start()
        if key not in self.tasks:
            self.tasks[key] = self.progress.add_task(key, total=total, how=how)
        self.progress.update(self.tasks[key], completed=done, total=total, how=how)


def _line(key: str, how: str, done: int, total: int, elapsed: float) -> str:
    """`retraining: 120 of 500 after 12 s, about 38 s left`."""
    left = f", about {elapsed * (total - done) / done:.0f} s left" if done and not how else ""
    detail = f" ({how})" if how else ""
    return f"{key}: {done} of {total} after {elapsed:.0f} s{left}{detail}"
