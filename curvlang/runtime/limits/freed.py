"""When freed memory goes back to the system: soon, where the user limits memory.

The C library keeps what is freed for later use, so that a process holds more than its tensors: up to three times
as much was measured. glibc gives every block above a threshold its own pages, which are returned when it is
freed; the threshold rises to 32 MiB by itself. Under a limit it is a small share of the limit. Smaller
limits cost time, since the system clears every page that it gives out again.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache

SHARE = 128
"""Blocks that take this share of the limit have pages of their own."""
_LEAST, _USUAL = 2**17, 2**25
"""Thresholds: the one that glibc begins with, and the largest to which it rises by itself."""
_TRIM, _THRESHOLD = -1, -3
"""Names of `mallopt`: what is returned of the end of the heap, and the threshold."""


def return_soon(limit: int | None) -> None:
    """Return freed blocks to the system above a share of a limit; without one above 32 MiB.

    Nothing is done where another allocator is in use, or where the environment states a threshold.

    Args:
        limit: Bytes that the user allows; None after the last limit has ended.
    """
    adjust = None if "MALLOC_MMAP_THRESHOLD_" in os.environ else _function("mallopt")
    if adjust is None:
        return
    threshold = _USUAL if limit is None else max(_LEAST, min(_USUAL, limit // SHARE))
    adjust(_THRESHOLD, threshold)
    adjust(_TRIM, 2 * threshold)


def return_freed() -> None:
    """Give back now what is freed, where the C library can."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _function(name: str) -> Callable[..., int] | None:
    """A function of glibc; None in another library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
