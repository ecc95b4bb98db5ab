"""Progress on standard error: a bar for what takes longer than two seconds, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

DELAY = 2.0
"""Seconds before a bar appears."""


class Bars:
    """A context in which `bars(name, done, total)` shows progress; silent when not a terminal.

    Args:
        quiet: Never show anything.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.on = sys.stderr.isatty() and not quiet
        self.started: dict[str, float] = {}
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
        now = time.monotonic()
        since = self.started.setdefault(name, now)
        if name not in self.tasks and (now - since < DELAY or done >= total):
            return
        if self.progress is None:
            self.progress = Progress(
                TextColumn("{task.description:>14}"),
                BarColumn(40),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.progress.start()
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total)
