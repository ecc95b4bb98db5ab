"""Freed memory goes back to the system under a user's limit."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from curvlang.runtime.limits.freed import return_freed
from curvlang.runtime.limits.memory import limited

BLOCK, COUNT = 2**21, 24
"""Bytes of a block, and blocks that are freed with a small one kept between each two."""

glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc can be told",
)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def kept_after_freeing() -> int:
    """Bytes that the process still holds of blocks that it has freed."""
    # Freeing a large block raises the threshold below which freed blocks are kept.
    torch.ones(2**24, dtype=torch.uint8)
    return_freed()
    before = resident()
    blocks, between = [], []
    for _ in range(COUNT):
        blocks.append(torch.ones(BLOCK, dtype=torch.uint8))
        between.append(torch.ones(2**16, dtype=torch.uint8))
    blocks.clear()
    return resident() - before


@glibc
@pytest.mark.parametrize("limit", ["64 MiB", "128 MiB"])
def test_under_a_limit_freed_blocks_are_returned(limit, monkeypatch):
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    with limited("64 GiB"), limited(limit):
        assert kept_after_freeing() < COUNT * BLOCK // 4


@glibc
def test_a_large_limit_changes_nothing(monkeypatch):
    """Blocks of a small share of it are kept, as without a limit: finding pages again takes time."""
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    with limited("64 GiB"):
        assert kept_after_freeing() > COUNT * BLOCK // 2
