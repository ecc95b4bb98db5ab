"""What the machine has, asked before the work starts."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from curvlang.diagnostics.diagnostic import Diagnostic, MachineError

_SHARE = 0.8
"""Share of the free memory that a plan may count on; the rest is other people's."""
_MEMINFO = Path("/proc/meminfo")


def available(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _SHARE)
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(int(line.split()[1]) * 1024 * _SHARE)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(pages * _SHARE)


def require(needed: int, device: torch.device, purpose: str, repairs: tuple[str, ...] = ()) -> None:
    """Refuse work that will not fit, with what it needs and what there is.

    Args:
        needed: Bytes.
        device: Where.
        purpose: What for.
        repairs: What to do about it, before what always helps.

    Raises:
        MachineError: E0801.
    """
    have = available(device)
    if needed > have:
        raise MachineError(
            Diagnostic(
                "E0801",
                f"{purpose} needs {gibibytes(needed)}, and {gibibytes(have)} are free",
                help=(
                    *repairs,
                    "use a smaller model or `--dtype float32`, or free memory on the machine",
                ),
            )
        )


def gibibytes(count: int) -> str:
    """A number of bytes as a person reads it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def exhausted(error: BaseException) -> MachineError | None:
    """E0801 for an error that says that memory ran out; None for any other.

    Torch raises a `RuntimeError` on the CPU and `torch.OutOfMemoryError` on a GPU.
    """
    text = str(error)
    on_cpu = "DefaultCPUAllocator" in text or isinstance(error, MemoryError)
    if not on_cpu and not isinstance(error, torch.OutOfMemoryError):
        return None
    asked = re.search(r"allocate (\d+) bytes", text) or re.search(
        r"allocate ([\d.]+ [KMGT]iB)", text
    )
    wanted = "more than there is"
    if asked is not None:
        wanted = gibibytes(int(asked[1])) if asked[1].isdigit() else asked[1]
    device = torch.device("cpu" if on_cpu else "cuda")
    return MachineError(
        Diagnostic(
            "E0801",
            f"out of memory: {wanted} were asked for at once, and {gibibytes(available(device))} "
            "are free",
            help=("use a smaller model or `--dtype float32`, or free memory on the machine",),
        )
    )
