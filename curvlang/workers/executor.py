"""What does work in units: each unit is a pure function, so that it does not matter who does it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from curvlang.runtime.progress.listeners import Progress

Results = Generator[tuple[str, bytes]]
"""Units with their results, as soon as they are there."""


@dataclass(frozen=True, slots=True)
class Description:
    """All that some work depends on.

    Args:
        text: What is done.
        data: Tensors that the text cannot name, as bytes.
    """

    text: str
    data: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class PortableWork:
    """Work as another machine gets it: a function that it has as well, and a description of what with.

    Args:
        function: Of a module of curvlang; called with the description and a unit.
        about: The description.
    """

    function: Callable[[Description, str], bytes]
    about: Description


class Work(Protocol):
    """Work in units that have names."""

    def do(self, unit: str) -> bytes:
        """The result of a unit, computed here; progress inside it is reported."""

    def portable(self) -> PortableWork:
        """The same for another machine.

        Raises:
            SpecError: E0845 where it cannot be described by a text.
        """


class Executor(Protocol):
    """What does units of work."""

    def agreed(self, units: Sequence[str]) -> list[str]:
        """Units that are to be done, where each process of a group may know of others."""

    def run(self, work: Work, units: Sequence[str]) -> Results:
        """Every unit with its result, as soon as it is there, in any order.

        What is not wanted any longer (the generator is closed, Ctrl-C) is cancelled.

        Args:
            work: What is done.
            units: With what.

        Raises:
            CurvlangError: Of a unit that is refused, once.
        """


class InTurn:
    """Units in this process, one after the other."""

    def agreed(self, units: Sequence[str]) -> list[str]:
        """As `Executor.agreed`."""
        return list(units)

    def run(self, work: Work, units: Sequence[str]) -> Results:
        """Every unit in its turn."""
        for unit in units:
            yield unit, work.do(unit)


IN_TURN = InTurn()
"""One after the other."""


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """Who does work in units, and who is notified of it.

    Args:
        executor: What does it.
        progress: Called with how much is done.
    """

    executor: Executor = IN_TURN
    progress: Progress | None = None

    def agreed(self, units: Sequence[str]) -> list[str]:
        """As `Executor.agreed`."""
        return self.executor.agreed(units)

    def run(self, work: Work, units: Sequence[str]) -> Results:
        """As `Executor.run`."""
        return self.executor.run(work, units)
