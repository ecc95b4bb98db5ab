"""A diagnostic is data: a code, a headline, places with a reason each, and a repair."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.source import Span


class Severity(StrEnum):
    """How much a diagnostic matters: errors stop the work, warnings are shown."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Label:
    """A place and what is to be said about it."""

    span: Span
    message: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """What is wrong, where, and what to do.

    Args:
        code: A stable code such as `E0207`; the registry of codes is `diagnostics/codes.py`.
        headline: One line that says what is wrong, with names in backticks.
        labels: Places, the primary one first; empty when there is no text (a missing file).
        help: The repair, one sentence each.
        notes: Facts that explain the reason.
        severity: Error unless said otherwise.
    """

    code: Code
    headline: str
    labels: tuple[Label, ...] = ()
    help: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR
