"""What does work in units: each unit is a pure function, so that it does not matter who does it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")
Unit_contra = TypeVar("Unit_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class PortableWork(Protocol[Unit_contra, Result_co]):
    """Work as another process gets it: a value that can be sent, and is called with a unit."""

    def __call__(self, unit: Unit_contra) -> Result_co:
        """The result of a unit."""


class Work(Protocol[Unit_contra, Result_co]):
    """Work in units."""

    def do(self, unit: Unit_contra) -> Result_co:
        """The result of a unit, computed here; progress inside it is reported."""

    def portable(self) -> PortableWork[Unit_contra, Result_co]:
        """The same for another process."""


class Executor(Protocol):
    """What does units of work."""

    def run(
        self, work: Work[Unit, Result], units: Sequence[Unit]
    ) -> Generator[tuple[Unit, Result]]:
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

    def run(
        self, work: Work[Unit, Result], units: Sequence[Unit]
    ) -> Generator[tuple[Unit, Result]]:
        """Every unit in its turn."""
        for unit in units:
            yield unit, work.do(unit)
