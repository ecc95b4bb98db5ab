"""Which of how many processes this one is, by what `torchrun` has told it; nothing is joined or waited for."""

from __future__ import annotations

import os

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
"""Environment variables by which `torchrun` tells a process which of how many it is."""
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Environment variables that say where the processes meet."""


def announced() -> tuple[int, int]:
    """The number of this process, and of how many; 0 of 1 where no launcher has started it."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and int(size) > 1):
        return 0, 1
    return int(rank), int(size)


def launched() -> bool:
    """Whether it is one of several, and knows where they meet."""
    return announced()[1] > 1 and {"RANK", *_MEETING} <= set(os.environ)


def local_rank() -> int | None:
    """The number of this process on its machine; None where no launcher has started it."""
    text = os.environ.get("LOCAL_RANK", "")
    return int(text) if text.isdecimal() else None


def local_size() -> int:
    """How many processes of the run this machine has, as far as they have been told; 1 where none has."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(text)) if text.isdecimal() else 1


def forget() -> None:
    """Work as one process by itself from now on."""
    for name in NAMES:
        os.environ.pop(name, None)
