"""Unfinished files and folders: their hidden names, the locks that say who is at work, the removal of the rest."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"
ASIDE = ".old"
_LONGEST = 200


def hidden_name(target: Path) -> Path:
    """A name beside `target` for what will take its name: hidden, new, and not longer than names can be."""
    return target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}{PARTIAL}")


def belongs_to(target: Path) -> Callable[[str], bool]:
    """Whether a name is a hidden one of `target`."""
    prefix = _prefix(target)
    return lambda name: name.startswith(prefix) and name.endswith((PARTIAL, PARTIAL + ASIDE))


def _prefix(target: Path) -> str:
    name = os.fsencode(target.name)
    if len(name) <= _LONGEST:
        return f".{target.name}."
    return f".{hashlib.sha256(name).hexdigest()[:32]}."


@contextmanager
def locked(place: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a file or a folder while working on it; the system lets go of it when the process ends.

    Args:
        place: What to hold.
        wait: Whether to wait for another process that holds it.

    Returns:
        Whether it is held now. False as well where the system has no such locks.
    """
    from filelock import lock_descriptor

    handle = None
    held = False
    try:
        # Without locks leftovers are never removed, for someone may be at work on them.
        with suppress(OSError):
            handle = os.open(place, os.O_RDONLY)
            held = lock_descriptor(handle, blocking=wait)
        yield held
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def claimed(target: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new place beside `target` under a hidden name, held as long as the context lasts.

    Args:
        target: What will have the name in the end.
        make: Makes an empty file or folder.
    """
    while True:
        place = hidden_name(target)
        make(place)
        with locked(place, wait=True):
            # Before it was held, another writer may have taken it for a leftover.
            if place.exists():
                yield place
                return


def remove(place: Path) -> None:
    """Delete a file or a folder, whole; what cannot be deleted is tried again by the next run."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def leftovers(folder: Path, ours: Callable[[str], bool]) -> list[Path]:
    """What lies in a folder under hidden names, finished or not."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return sorted(folder / name for name in names if ours(name))


def clear(
    folder: Path, ours: Callable[[str], bool], retire: Callable[[Path], None] = remove
) -> None:
    """Remove what killed processes left in a folder; what a living one works on stays.

    Args:
        folder: Where.
        ours: Which names are hidden ones of curvlang.
        retire: What is done with each of them.
    """
    for place in leftovers(folder, ours):
        with locked(place) as held:
            if held:
                retire(place)


def unfinished(name: str) -> bool:
    """Whether a name is a hidden one, of whatever file, in a folder that curvlang alone writes."""
    return name.startswith(".") and name.endswith((PARTIAL, PARTIAL + ASIDE))
