"""Who does the units of a run: this process, the processes of its group, or workers of Dask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.runtime.processes.distributed import world
from curvlang.workers.dask_workers import DaskWorkers
from curvlang.workers.executor import Executor, InTurn
from curvlang.workers.ranks import Ranks


@contextmanager
def executor_of(workers: int | str | None) -> Iterator[Executor]:
    """What does units, until the end of the block.

    Args:
        workers: Workers of Dask: how many are started here, or the address of a scheduler. None for
            the processes of the group that this one is in, or this one alone.

    Raises:
        SpecError: E0849 for workers that cannot be had.
    """
    several = world().size > 1
    if workers is None:
        yield Ranks() if several else InTurn()
        return
    if several:
        raise refusal(
            Code.E0849,
            "the processes of a group share the units themselves",
            "leave the workers out, or start one process",
        )
    found = DaskWorkers(workers)
    try:
        yield found
    finally:
        found.close()
