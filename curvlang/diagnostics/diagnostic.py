"""What curvlang raises on purpose: errors that carry diagnostics and show them whole."""

from __future__ import annotations

from collections.abc import Sequence

from curvlang.diagnostics.record import Diagnostic as Diagnostic
from curvlang.diagnostics.record import Label as Label
from curvlang.diagnostics.record import Severity as Severity
from curvlang.diagnostics.render import render


class CurvlangError(Exception):
    """Base of what curvlang raises on purpose; carries diagnostics, never only a string."""

    def __init__(self, diagnostics: Sequence[Diagnostic] | Diagnostic) -> None:
        """Keep the diagnostics; the message is all of them, with places and repairs."""
        found = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        self.diagnostics: tuple[Diagnostic, ...] = found
        super().__init__(found)

    def __str__(self) -> str:
        """The diagnostics as the command line prints them, without colour."""
        return render(self.diagnostics)

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the diagnostics in colour, without the calls that led to them."""
        return render(self.diagnostics, color=True).split("\n")


class SpecError(CurvlangError):
    """The user's input is wrong: a spec, a task, data, an option. Exit code 2."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was saved as its message. Exit code 130."""


class MachineError(CurvlangError):
    """The machine could not: memory, disk. Exit code 3. Says what was needed and what there was."""
