"""What does work in units: each unit is a pure function, so that it does not matter who does it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from curvlang.runtime.progress.listeners import Progress


class Work(Protocol):
    """Work in units that have names."""

    def do(self, unit: str) -> bytes:
        """The result of a unit, computed here; progress inside it is reported."""


class Executor(Protocol):
    """What does units of work."""

    def run(self, work: Work, units: Sequence[str]) -> Generator[tuple[str, bytes]]:
        """Every unit with its result, as soon as it is there, in any order.

        What is not asked for any longer (the iterator is closed, Ctrl-C) is cancelled.

        Args:
            work: What is done.
            units: With what.

        Raises:
            CurvlangError: Of a unit that is refused, once.
        """


class InTurn:
    """Units in this process, one after the other."""

    def run(self, work: Work, units: Sequence[str]) -> Generator[tuple[str, bytes]]:
        """Every unit in its turn."""
        for unit in units:
            yield unit, work.do(unit)


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """Who does work in units, and who is notified of it.

    Args:
        executor: This process, where none is given.
        progress: Called with the number of units' parts done.
    """

    executor: Executor | None = None
    progress: Progress | None = None

    def run(self, work: Work, units: Sequence[str]) -> Generator[tuple[str, bytes]]:
        """As `Executor.run`."""
        return (self.executor or InTurn()).run(work, units)
