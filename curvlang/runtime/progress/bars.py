"""Bars on a terminal, drawn by rich: they appear when work takes long, and leave nothing behind."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from curvlang.runtime.progress.stages import Stage

DELAY = 2.0
"""Seconds before a bar appears."""


@dataclass(slots=True)
class TerminalBars:
    """A bar for every stage that takes long; of one that is not counted, a bar that moves."""

    drawn: Progress | None = None
    bars: dict[str, TaskID] = field(default_factory=dict)

    def show(self, stage: Stage, now: float) -> None:
        """Draw how far a stage is."""
        if stage.name not in self.bars and (now - stage.began < DELAY or stage.finished):
            return
        drawn = self._started()
        total = stage.total or None
        if stage.name not in self.bars:
            self.bars[stage.name] = drawn.add_task(stage.name, total=total, how=stage.how)
        drawn.update(self.bars[stage.name], completed=stage.done, total=total, how=stage.how)

    def end(self, stage: Stage) -> None:
        """A stage is over: its bar is full."""
        if self.drawn is not None and stage.name in self.bars:
            total = stage.total or 1
            self.drawn.update(self.bars[stage.name], completed=total, total=total, how="")

    def stop(self) -> None:
        """Take the bars away."""
        if self.drawn is not None:
            self.drawn.stop()

    def _started(self) -> Progress:
        if self.drawn is None:
            self.drawn = Progress(
                TextColumn("{task.description:>14}"),
                BarColumn(40),
                TextColumn("{task.completed:.0f}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[how]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.drawn.start()
        return self.drawn
