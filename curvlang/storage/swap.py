"""A folder written whole: a reader sees the old one or the new one, at every moment and after any kill."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from curvlang.storage.leftovers import (
    ASIDE,
    belongs_to,
    clear,
    hidden_name,
    leftovers,
    locked,
    remove,
    unfinished,
)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_THERE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


@contextmanager
def whole_folder(target: Path, keep: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write to, which takes the name `target` when it is done; folders above are made.

    Args:
        target: The name that it takes; a folder of that name is replaced.
        keep: Folders inside the old one whose files the new one has as well. Other processes may
            add files to them meanwhile: none is lost.

    Raises:
        OSError: Where the system refuses; `target` then is what it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target, keep)
    new = hidden_name(target)
    new.mkdir()
    try:
        with locked(new):
            yield new
            for name in keep:
                _link_files(target / name, new / name)
            with locked(target, wait=True):
                swap_in(new, target)
                _retire(new, target, keep)
    except BaseException:
        _retire(new, target, keep)
        raise


def recover(target: Path, keep: Sequence[str] = ()) -> None:
    """Put right what a killed process left beside `target`: its folder is back, hidden ones are gone.

    Args:
        target: The folder that was being written.
        keep: As for `whole_folder`.
    """
    ours = belongs_to(target)
    for aside in leftovers(target.parent, lambda name: ours(name) and name.endswith(ASIDE)):
        # Killed between two renames: the old folder has its name back.
        with locked(aside) as held:
            if held and not target.exists():
                os.rename(aside, target)
    clear(target.parent, ours, lambda place: _retire(place, target, keep))


def clear_inside(folder: Path) -> None:
    """Remove unfinished files that a killed process left in a folder that curvlang alone writes."""
    clear(folder, unfinished)


def swap_in(new: Path, target: Path) -> None:
    """Give `new` the name `target`; a folder that stood there has a hidden name afterwards.

    Both are in one folder, so that a rename suffices. Where the system can exchange two names in
    one call (Linux, on common file systems), there is no moment without a folder called `target`.
    Elsewhere two renames do it, and the first is undone where the second fails.

    Raises:
        OSError: Where the system refuses; `target` then is what it was.
    """
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):
        _rename_twice(new, target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one system call; False where there is no such call."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_THERE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _rename_twice(new: Path, target: Path) -> None:
    aside = new.with_name(new.name + ASIDE)
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    os.rename(aside, new)


def _retire(place: Path, target: Path, keep: Sequence[str]) -> None:
    """Remove a hidden folder; what others have put into its kept folders meanwhile goes to `target`."""
    if target.is_dir():
        for name in keep:
            _link_files(place / name, target / name)
    remove(place)


def _link_files(source: Path, goal: Path) -> None:
    """The same files in another folder: links where the system has them, else copies."""
    if not source.is_dir():
        return
    goal.mkdir(exist_ok=True)
    for file in sorted(source.iterdir()):
        if unfinished(file.name) or (goal / file.name).exists():
            continue
        with suppress(FileNotFoundError, FileExistsError):
            try:
                os.link(file, goal / file.name)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EEXIST):
                    raise
                shutil.copy2(file, goal / file.name)
