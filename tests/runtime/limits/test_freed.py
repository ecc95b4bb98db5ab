"""Freed memory goes back to the system under a user's limit; a new process has nothing freed before."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCK, COUNT = 2**21, 24
"""Bytes of a block, and blocks that are freed with a small one kept between each two."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kept_after_freeing() -> int:
    """Bytes that the process still holds of blocks that it has freed."""
    import torch

    # Freeing a large block raises the threshold below which freed blocks are kept.
    torch.ones(2**24, dtype=torch.uint8)
    before = resident()
    blocks, between = [], []
    for _ in range(COUNT):
        blocks.append(torch.ones(BLOCK, dtype=torch.uint8))
        between.append(torch.ones(2**16, dtype=torch.uint8))
    blocks.clear()
    return resident() - before


def measured() -> dict[str, int]:
    """What is kept under a small limit, and then under a large one."""
    from curvlang.runtime.limits.memory import limited

    with limited("64 GiB"):
        with limited("64 MiB"):
            small = kept_after_freeing()
        large = kept_after_freeing()
    return {"small": small, "large": large}


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc can be told",
)
def test_under_a_small_limit_freed_blocks_are_returned():
    """Under a large one they are kept, as without a limit: finding pages again takes time."""
    code = f"import json; from {__name__} import measured; print(json.dumps(measured()))"
    given = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", code], env=given, check=True, capture_output=True, text=True
        ).stdout
    )
    assert found["small"] < COUNT * BLOCK // 4
    assert found["large"] > COUNT * BLOCK // 2
