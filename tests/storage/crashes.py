"""A process that dies at its k-th operation on files: from then on nothing it does reaches the disk."""

from __future__ import annotations

import io
import os

from curvlang.storage import swap

OPERATIONS = (
    (os, "open"), (os, "mkdir"), (os, "rename"), (os, "replace"), (os, "link"), (os, "unlink"),
    (os, "rmdir"), (os, "fsync"), (os, "chmod"), (io, "open"), (swap, "_exchange"),
)  # fmt: skip


class Crash(BaseException):
    """The process is dead."""


def dies_at(monkeypatch, k, action):
    """Run `action` until its k-th operation; whether it died before it was done."""
    left = [k]

    def counted(function):
        def called(*args, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return function(*args, **options)

        return called

    with monkeypatch.context() as patch:
        for module, name in OPERATIONS:
            patch.setattr(module, name, counted(getattr(module, name)))
        try:
            action()
        except Crash:
            return True
    return False


def content(place):
    """Every file below a place by its path in it; None where there is no such place."""
    if place.is_file():
        return place.read_bytes()
    if not place.exists():
        return None
    return {
        p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()
    }


def assert_whole_at_every_crash(monkeypatch, write, place, states, read=content):
    """Whole at every crash: the old or the new; written again it is the new, and nothing is beside it.

    Args:
        monkeypatch: The fixture.
        write: Writes the old state (False) or the new one (True).
        place: What is written.
        states: Also allowed right after a crash.
        read: What is compared.

    Returns:
        How many crashes there were.
    """
    # What a kill leaves is in the system's memory: only the loss of power asks for the disk.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    write(True)
    new = read(place)
    for k in range(10_000):
        write(False)
        old = read(place)
        assert old != new
        died = dies_at(monkeypatch, k, lambda: write(True))
        assert read(place) in ([old, new, *states] if died else [new]), k
        write(True)
        assert read(place) == new, k
        assert [p.name for p in place.parent.iterdir()] == [place.name], k
        if not died:
            return k
    raise AssertionError("it never ends")
