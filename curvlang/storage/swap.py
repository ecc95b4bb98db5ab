"""A folder written whole: a reader sees the old one or the new one, at every moment and after any kill."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from curvlang.storage.atomic import sync, sync_folder
from curvlang.storage.leftovers import (
    ASIDE,
    belongs_to,
    claimed,
    clear,
    leftovers,
    locked,
    remove,
    unfinished,
)

Content = bytes | Callable[[IO[bytes]], object]
"""A file's bytes, or what writes them."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_THERE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def write_folder(target: Path, contents: Mapping[str, Content], keep: Sequence[str] = ()) -> None:
    """Write a folder whole or not at all; when this returns, it is on the disk.

    Args:
        target: The name that it takes; a folder of that name is replaced.
        contents: Every file by its path inside.
        keep: As for `whole_folder`.

    Raises:
        OSError: Where the system refuses; `target` then is what it was.
    """
    with whole_folder(target, keep) as new:
        for name, content in contents.items():
            place = new / name
            place.parent.mkdir(exist_ok=True)
            with place.open("wb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
            sync(place)
        for folder in {(new / name).parent for name in contents}:
            sync_folder(folder)


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
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target, keep)
    with claimed(target, Path.mkdir) as new:
        try:
            yield new
            for name in keep:
                _link_files(target / name, new / name)
            with locked(target, wait=True):
                swap_in(new, target)
                sync_folder(target.parent)
        finally:
            _retire(new, target, keep)


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
