"""Whether diagnostics are written in colour."""

from __future__ import annotations

import os
import sys


def use_color() -> bool:
    """On a terminal, unless `NO_COLOR` is set (no-color.org: and not empty)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
