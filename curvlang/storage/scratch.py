"""Files of this process in the cache folder, for data that memory is not for: removed when the process ends.

What a killed process leaves is removed by the next one that makes such files.
"""

from __future__ import annotations

import atexit
import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import IO

from curvlang.storage.atomic import Destination
from curvlang.storage.cache import default_root
from curvlang.storage.leftovers import belongs_to, claimed, clear, remove

_NOTE = "nothing was left behind; rows of data that do not fit in memory are kept there while the run lasts"
_NUMBERS = itertools.count()


@contextmanager
def scratch_file(suffix: str) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file to be written, which stays as long as the process.

    Args:
        suffix: How its name ends.

    Raises:
        MachineError: E0802 where the disk is full, E0803 where the cache folder cannot be written.
    """
    root = default_root()
    with Destination(root, "cache", _NOTE).refusals():
        path = _folder(root, os.getpid()) / f"{next(_NUMBERS)}{suffix}"
        try:
            with path.open("wb") as file:
                yield path, file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@cache
def _folder(root: Path, process: int) -> Path:
    """The folder of a process, held as long as it lives."""
    target = root / "rows"
    root.mkdir(parents=True, exist_ok=True)
    clear(root, belongs_to(target))
    held = ExitStack()
    place = held.enter_context(claimed(target, Path.mkdir))

    def end() -> None:
        # A process that was forked from this one leaves the folder to it.
        if os.getpid() == process:
            remove(place)
            held.close()

    atexit.register(end)
    return place
