"""One way to refuse: a diagnostic without a place in a text, raised as `SpecError`."""

from __future__ import annotations

from collections.abc import Sequence

from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.source import NOWHERE, Span


def refusal(
    code: str,
    headline: str,
    *help: str,
    notes: Sequence[str] = (),
    span: Span = NOWHERE,
    label: str = "",
) -> SpecError:
    """The error to raise; `span` adds a label where the input came from a text."""
    labels = () if span is NOWHERE else (Label(span, label),)
    return SpecError(Diagnostic(code, headline, labels, tuple(help), tuple(notes)))
