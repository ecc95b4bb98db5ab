"""What the processes of a run tell each other by the keys of their group's store.

A process that waits looks at the store from time to time: it sees what it waits for, that another has
failed, or that the one it waits for shows no sign of life any more.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import Store

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError, Diagnostic, MachineError
from curvlang.diagnostics.refusal import not_come, refusal
from curvlang.runtime.processes.errors import decoded, encoded

PATIENCE = 60.0
"""Seconds without a sign of life after which a process counts as lost."""
JOINING = 5
"""A process that has not come yet is given this many times as long: it may still be reading its data."""
PATIENCE_NAME = "CURVLANG_PATIENCE"
"""Environment variable with other seconds."""
_SHORTEST, _LONGEST = 2e-4, 0.05
"""Seconds between two looks at the store: each wait begins with the first and slows down."""
_LATE = 0.05
"""What a wait may go on after its end, as a share of it."""


def patience() -> float:
    """Seconds without a sign of life after which a process counts as lost.

    Raises:
        SpecError: E0834 where the environment variable is not a positive number.
    """
    text = os.environ.get(PATIENCE_NAME)
    try:
        found = PATIENCE if text is None else float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise refusal(
            Code.E0834,
            f"`{PATIENCE_NAME}={text}` is not a number of seconds",
            f"set a positive number, or unset it for {PATIENCE:g}",
        )
    return found


@dataclass(slots=True, eq=False)
class Link:
    """This process's end of the store; keys belong to the innermost run.

    Args:
        base: The group's store, which all processes have.
        store: Its part that is used here.
        rank: Of this process.
        size: Number of processes.
        patience: Seconds without a sign of life after which another process counts as lost.
    """

    base: Store
    store: Store
    rank: int
    size: int
    patience: float
    count: int = 0
    runs: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self) -> None:
        """Enter the next run: all processes do, in the same order."""
        self.count += 1
        self.runs.append(self.count)
        self._beat()

    def end(self, error: BaseException | None) -> CurvlangError | None:
        """Leave the innermost run; an error is told to those who wait for this process.

        Returns:
            The error of another process that has failed before this one, if that is how it ended.
        """
        run = self.runs.pop()
        first = None if error is None else self._failed(run, error)
        self._beat()
        return first

    def _failed(self, run: int, error: BaseException) -> CurvlangError | None:
        name = f"failed/{run}"
        if self.store.add(f"failing/{run}", 1) == 1:
            self.store.set(name, encoded(error, self.rank))
            return None
        try:
            self.store.wait([name], timedelta(seconds=self.patience))
        except (dist.DistError, RuntimeError):
            return None
        return decoded(self.store.get(name))

    def key(self, name: str) -> str:
        """A key of the innermost run."""
        return f"{self.runs[-1] if self.runs else 0}/{name}"

    def tell(self, name: str, value: str) -> None:
        """Leave a value for whoever waits for it."""
        self.store.set(self.key(name), value)

    def told(self, name: str) -> bool:
        """Whether a value is there."""
        return self.store.check([self.key(name)])

    def claim(self, name: str) -> bool:
        """Whether this process is the first that asks."""
        return self.store.add(self.key(f"claimed {name}"), 1) == 1

    def wait(self, name: str, origin: int) -> str:
        """The value that a process leaves under a name; other processes' errors end the wait."""
        key = self.key(name)
        watch = _Watch(self, origin)
        begun = watch.since
        while not self.store.check([key]):
            self.check()
            watch.look()
            waited = time.monotonic() - begun
            time.sleep(min(_LONGEST, max(_SHORTEST, _LATE * waited)))
        return self.store.get(key).decode()

    def check(self) -> None:
        """Raise what another process has failed with in a run that this one is in."""
        for run in self.runs:
            name = f"failed/{run}"
            if self.store.check([name]):
                raise decoded(self.store.get(name))

    def live(self) -> None:
        """Show signs of life from now on, until the interpreter ends."""
        self._beat()
        thread = threading.Thread(target=self._living, name="curvlang-alive", daemon=True)
        thread.start()

        def leave() -> None:
            self._stop.set()
            thread.join(1.0)
            self._beat(gone=True)

        atexit.register(leave)

    def stop(self) -> None:
        """Show no further signs of life."""
        self._stop.set()

    def _living(self) -> None:
        while not self._stop.wait(min(5.0, self.patience / 6)) and dist.is_initialized():
            if not self._beat():
                return

    def _beat(self, gone: bool = False) -> bool:
        """One sign of life; whether the store still took it."""
        sign = [time.monotonic_ns(), self.runs[-1] if self.runs else 0, self.count, gone]
        try:
            self.store.set(f"alive/{self.rank}", json.dumps(sign))
        except RuntimeError:
            # The process that kept the store has ended, and no other can read it.
            return False
        return True


@dataclass(slots=True, eq=False)
class _Watch:
    """Signs of life of the process that is waited for, as they are seen here."""

    link: Link
    origin: int
    since: float = field(default_factory=time.monotonic)
    seen: int = 0
    next: float = 0.0

    def look(self) -> None:
        """Look at the last sign of life, a few times a second.

        Raises:
            MachineError: E0830 for a process that has not come, E0832 for one that has ended.
        """
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + 0.1
        link = self.link
        name = f"alive/{self.origin}"
        beat, run, count, gone = 0, 0, 0, False
        if link.store.check([name]):
            beat, run, count, gone = json.loads(link.store.get(name))
        mine = link.runs[-1] if link.runs else link.count
        if gone:
            raise _lost(self.origin, "has ended")
        # One that is in no run, or waits in an earlier one, has yet to come: this is not a sign of work.
        coming = run == 0 and count <= mine
        if beat != self.seen and not coming:
            self.seen, self.since = beat, now
        limit = link.patience * (JOINING if coming else 1)
        if now - self.since > limit:
            raise _missing(self.origin, limit) if coming else _lost(self.origin, _silent(limit))


def _silent(limit: float) -> str:
    return f"has shown no sign of life for {limit:g} seconds"


def _missing(rank: int, limit: float) -> MachineError:
    return not_come(
        f"process {rank} has not",
        limit,
        ["all processes of a group run the same program on the same task"],
        "call it in every process of the group, or destroy the group before work of one process",
        f"set `{PATIENCE_NAME}` to more seconds where a process only takes long to begin",
    )


def _lost(rank: int, what: str) -> MachineError:
    return MachineError(
        Diagnostic(
            Code.E0832,
            f"process {rank} {what}",
            help=("look for its own output, then start the command again",),
        )
    )
