"""Rows on their way to a card: through pinned memory, on a stream of their own, while the card computes.

A card works through what the host has queued. What the host reads of it, and every copy from memory that is not
pinned, waits until the queue is empty: in a loop over batches that leaves the card idle between two of them.
Without such waits the host is a batch ahead, reads the next rows and copies them while the card still
computes with those before.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def waits(device: torch.device) -> bool:
    """Whether the host waits where it reads a number of this device."""
    return device.type != "cpu"


def moved(x: Tensor, device: torch.device) -> Tensor:
    """Rows on a device; to a card they are copied while it computes and the host goes on."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    copies, current = _copies(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        found = x.pin_memory().to(device, non_blocking=True)
    current.wait_stream(copies)
    # Its memory belongs to the copies' stream, which must not hand it out before it has been read here.
    found.record_stream(current)
    return found


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """The stream on which rows are copied to a card."""
    return torch.cuda.Stream(device)
