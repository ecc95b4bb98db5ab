"""One way to refuse: a diagnostic as the error to raise."""

from __future__ import annotations

from collections.abc import Sequence

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, MachineError, SpecError
from curvlang.diagnostics.source import Span


def refusal(
    code: Code,
    headline: str,
    *help: str,
    labels: Sequence[Label] = (),
    notes: Sequence[str] = (),
) -> SpecError:
    """An input that is refused, as the error to raise.

    Args:
        code: Of the diagnostic.
        headline: What is wrong.
        help: Repairs, one sentence each.
        labels: Places in a text, the primary one first; `label_at(span)` for a span that may be nowhere.
        notes: Facts that explain the reason.
    """
    return SpecError(Diagnostic(code, headline, tuple(labels), help, tuple(notes)))


def label_at(span: Span, message: str = "") -> tuple[Label, ...]:
    """The place of a refusal; none where no text wrote what is refused."""
    return (Label(span, message),) if span.end else ()


def not_come(who: str, seconds: float, notes: Sequence[str], *repairs: str) -> MachineError:
    """The error of a process that has waited for others.

    Args:
        who: `process 1 has`, `not all 4 processes have`.
        seconds: How long it has waited.
        notes: Why they are waited for, or what torch says.
        repairs: What to do.
    """
    headline = f"{who} come within {seconds:g} seconds"
    return MachineError(Diagnostic(Code.E0830, headline, notes=tuple(notes), help=repairs))
