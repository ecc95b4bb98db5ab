"""One command in several processes, `torchrun … -m curvlang COMMAND`: the first prints, the others are silent."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

COMPUTING = ("fit", "index", "influence", "eval", "bench", "study")
"""Commands that work in all processes together; of the others the first process answers alone."""
PATIENCE = 5.0
"""Seconds that a process waits for the first one to say what went wrong, before it says so itself."""


@dataclass(slots=True)
class Ranks:
    """The processes of one command, seen from one of them.

    Args:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1
    world: cv.World | None = None
    aside: int | None = None
    """Standard error as it was, where this process is silent."""

    @property
    def first(self) -> bool:
        """Whether this process prints, and writes the files that are written once."""
        return self.rank == 0

    def part(self, command: str) -> bool:
        """Whether this process has a part in a command; one that answers alone knows no others."""
        if self.size > 1 and command not in COMPUTING:
            cv.World.forget()
            if self.first:
                self.size = 1
            return self.first
        return True

    @contextmanager
    def working(self) -> Iterator[None]:
        """All processes enter the work together: an error in one of them ends it in all."""
        if self.size == 1:
            yield
            return
        if not self.first:
            self._silence()
        self.world = cv.world()
        with self.world.run():
            check_commands(self.world.exchange("command", shlex.join(sys.argv[1:])))
            yield

    def say(self, words: Callable[[], None]) -> None:
        """Say once what went wrong: the first process does, or one that it does not hear of it from.

        Args:
            words: Prints it.
        """
        if self.size == 1 or self.first:
            words()
            if self.world is not None:
                self.world.tell("said")
        elif self.world is None:
            # The processes have not come together: the first one of each machine says so.
            if os.environ.get("LOCAL_RANK", "0") == "0":
                self._aloud(words)
        elif not self._heard():
            self._aloud(words)

    def raises(self) -> bool:
        """Whether it is this process that shows the traceback of an error that none of ours is."""
        if self.world is not None and not self.world.claim("traceback"):
            return False
        if self.aside is not None:
            self._restore()
        return True

    def _heard(self) -> bool:
        assert self.world is not None
        start = time.monotonic()
        while not self.world.told("said"):
            if time.monotonic() - start > PATIENCE:
                return False
            time.sleep(0.02)
        return True

    def _silence(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.aside = os.dup(2)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        os.close(nothing)

    def _restore(self) -> None:
        assert self.aside is not None
        sys.stderr.flush()
        os.dup2(self.aside, 2)

    def _aloud(self, words: Callable[[], None]) -> None:
        if self.aside is not None:
            self._restore()
        words()
        sys.stderr.flush()


def writes(result: str) -> bool:
    """Whether this process writes a result; by then all processes have done their part of it.

    Args:
        result: Its name, of which a command has one.
    """
    place = ranks()
    if place.size > 1:
        cv.world().exchange(f"done: {result}", "")
    return place.first


def check_commands(given: Sequence[str]) -> None:
    """Refuse processes that were given different commands: what they make would not belong together.

    Args:
        given: The command line of every process, by its number.

    Raises:
        SpecError: E0862.
    """
    for rank, text in enumerate(given):
        if text != given[0]:
            raise refusal(
                Code.E0862,
                f"process {rank} runs `curvlang {text}`, process 0 runs `curvlang {given[0]}`",
                "start one command in all processes of a `torchrun`",
            )


def ranks() -> Ranks:
    """Which of how many processes this is, by what `torchrun` says; joins no group."""
    if "WORLD_SIZE" not in os.environ:
        # Help and the commands of the language load no torch, on which `World` stands.
        return Ranks()
    found = cv.World.announced()
    return Ranks(found.rank, found.size)
