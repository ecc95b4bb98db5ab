"""Parts of a run that all processes go through in step, with the same numbers: products are shared there.

Outside them a process may multiply when it wants, and does all of it itself. Inside them a process that does
something else than process 0 is refused, so that nothing is added up that does not belong together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.runtime.processes.distributed import World, world

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers of as many bytes as a number has."""


@dataclass(slots=True, eq=False)
class Steps:
    """The steps of a part of a run.

    Args:
        processes: Which go through them.
        count: How many have begun.
    """

    processes: World
    count: int = 0

    def next(self, what: str) -> str:
        """Begin the next step: a key of the run for what is shared in it.

        Args:
            what: The step, with the numbers that it begins with.

        Raises:
            SpecError: E0833 where process 0 does something else.
        """
        self.count += 1
        key = f"step {self.count}"
        if self.processes.first:
            self.processes.tell(key, what)
        elif self.processes.wait(key, 0) != what:
            raise refusal(
                Code.E0833,
                f"process {self.processes.rank} differs from process 0 in the vectors that are multiplied",
                "run all processes on machines of one kind, with the same number of threads "
                "(`OMP_NUM_THREADS`) and one release of torch",
                notes=("iterations decide by their last digits when they end",),
            )
        return key


_steps: ContextVar[Steps | None] = ContextVar("steps", default=None)


@contextmanager
def in_step() -> Iterator[None]:
    """A part that all processes enter together, and go through with the same numbers."""
    processes = world()
    if processes.size == 1 or _steps.get() is not None:
        yield
        return
    with processes.run():
        steps = Steps(processes)
        token = _steps.set(steps)
        try:
            yield
        finally:
            _steps.reset(token)
        steps.next("end")


@contextmanager
def out_of_step() -> Iterator[None]:
    """A share of the work that every process does by itself, inside a part that all go through in step."""
    token = _steps.set(None)
    try:
        yield
    finally:
        _steps.reset(token)


def steps() -> Steps | None:
    """The part that this process is in; None where it works by itself."""
    found = _steps.get()
    return None if found is None or world().size == 1 else found


def bits(x: Tensor) -> int:
    """A sum of the bits of a tensor: another number where a digit differs."""
    whole = x.detach().contiguous().view(_BITS[x.element_size()])
    return int(whole.sum(dtype=torch.int64))
