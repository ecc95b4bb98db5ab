"""Seconds of the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from curvlang.costs import rates


@contextmanager
def processor_clock() -> Iterator[None]:
    """Rates and stages in seconds of the processor, which other work does not make longer."""
    usual = rates.clock
    rates.clock = lambda device: time.process_time()
    try:
        yield
    finally:
        rates.clock = usual
