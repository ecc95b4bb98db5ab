"""Progress as commands show it: that of the Python interface."""

from __future__ import annotations

from curvlang.reporting.progress import Bars

__all__ = ["Bars"]
