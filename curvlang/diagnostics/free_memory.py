"""How many bytes of memory nothing holds: those of the machine, or of its container if that has fewer."""

from __future__ import annotations

import os
from pathlib import Path

from curvlang.diagnostics.cgroup import left_in_group

_MEMINFO = Path("/proc/meminfo")


def free_memory() -> int:
    """Bytes of the host's memory that can still be allocated."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    group = left_in_group()
    return free if group is None else min(free, group)


def gibibytes(count: int) -> str:
    """A number of bytes as a person reads it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
