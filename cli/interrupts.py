"""Ctrl-C ends a command with code 130 and one line, at any moment: while libraries are imported, too."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

CODE = 130
"""What a shell calls a process that Ctrl-C ended."""

_IMPORT = "<frozen importlib._bootstrap>"
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """What SIGINT does to this process.

    Only a command at work is told by a `KeyboardInterrupt`, for it has something to finish. Before
    and after that, and inside an import, the process ends at once: libraries that are half imported
    turn the exception into errors of their own. Files are written whole or not at all, so that
    nothing is lost by it.
    """

    def __init__(self) -> None:
        self.asked = False
        self._working = False

    def install(self) -> None:
        """Take SIGINT over, but where the process was started to ignore it (`nohup`)."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A command is at work: Ctrl-C is a `KeyboardInterrupt` inside."""
        self._working = True
        try:
            yield
        finally:
            self._working = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._working or _importing(frame):
            _leave()
        self.asked = True
        raise KeyboardInterrupt


INTERRUPTS = Interrupts()
"""Of this process."""


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


def _leave() -> None:
    """End the process here; what was printed before is kept, and a hidden cursor is shown."""
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + b"\ninterrupted\n")
    os._exit(CODE)
