"""One run at a time on a store: the others wait and say for whom; the lock of a dead process holds nothing back."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.storage.atomic import RESUMED, Destination

LOCK = "lock"
HOLDER = "lock.holder"
POLL = 0.1
"""Seconds between two looks at a lock that another run holds."""


class StoreBusy(UserWarning):
    """Another run works on the store: this one waits for it."""


@contextmanager
def at_work(store: Path) -> Iterator[None]:
    """Hold a store while working on it; where another run holds it, wait, with a warning that says so.

    The lock is the system's: it ends with the process that holds it, however that ends.

    Args:
        store: Its folder, which exists.

    Raises:
        MachineError: E0802 where the disk is full, E0838 where the folder cannot be written, or its file
            system has no locks.
    """
    place = Destination(store, "store", RESUMED)
    with place.refusals():
        handle = os.open(store / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, store)
        with place.refusals():
            (store / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield
        finally:
            (store / HOLDER).unlink(missing_ok=True)
    finally:
        os.close(handle)


def _take(handle: int, store: Path) -> None:
    from filelock import lock_descriptor

    waiting = False
    try:
        while not lock_descriptor(handle, blocking=False):
            if not waiting:
                waiting = True
                text = f"waiting for {holder(store)}, which works on the store `{store}`"
                warnings.warn(text, StoreBusy, stacklevel=4)
            time.sleep(POLL)
    except OSError as error:
        raise MachineError(
            Diagnostic(
                Code.E0838,
                f"the store `{store}` cannot be locked: {error.strerror or error}",
                help=("name a folder on a file system with locks (`flock`)",),
                notes=("two runs that wrote to one store would spoil each other's work",),
            )
        ) from error


def holder(store: Path) -> str:
    """Who holds a store, in words."""
    try:
        return (store / HOLDER).read_text() or "another run"
    except OSError:
        return "another run"
