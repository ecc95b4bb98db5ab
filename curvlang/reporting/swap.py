"""Put a finished folder in the place of another one, so that a reader sees the old or the new."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_THERE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def swap_in(new: Path, target: Path) -> None:
    """Give `new` the name `target`; a folder that stood there is deleted afterwards.

    Both are in one folder, so that a rename suffices. Where the system can exchange two names in
    one call (Linux, on common file systems), there is no moment without a folder called `target`.
    Elsewhere two renames do it, and the first is undone where the second fails.

    Raises:
        OSError: Where the system refuses; `target` then is what it was.
    """
    if not target.exists():
        os.rename(new, target)
    elif _exchange(new, target):
        shutil.rmtree(new)
    else:
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
    aside = new.with_name(new.name + ".old")
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside)
