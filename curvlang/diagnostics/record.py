"""A diagnostic is data: a code, a headline, places with a reason each, and a repair."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from html import escape

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
class Edit:
    """A change of a text: other characters in place of a span, for a reason."""

    span: Span
    text: str
    title: str


class Repair(str):
    """A repair that an editor can make, for a diagnostic's `help`.

    Args:
        sentence: The repair in words.
        new: What is written.
        old: What it is written in place of, at the first label that has it; empty for all of the label.
        span: The place itself, where it is not a label's.
    """

    new: str
    old: str
    span: Span | None

    def __new__(cls, sentence: str, new: str, *, old: str = "", span: Span | None = None) -> Repair:
        """The sentence, with what it changes."""
        made = super().__new__(cls, sentence)
        made.new, made.old, made.span = new, old, span
        return made

    def edit(self, labels: tuple[Label, ...]) -> Edit | None:
        """The change, in the text of the labels; None where they do not show what is replaced."""
        if self.span is not None:
            return Edit(self.span, self.new, str(self))
        word = re.compile(rf"(?<!\w){re.escape(self.old)}(?!\w)" if self.old else r"(?s).+")
        for label in labels:
            found = word.search(label.span.text)
            if found is not None:
                start = label.span.start + found.start()
                span = Span(label.span.source, start, start + len(found[0]))
                return Edit(span, self.new, str(self))
        return None


@dataclass(frozen=True, slots=True, repr=False)
class Diagnostic:
    """What is wrong, where, and what to do.

    Args:
        code: A stable code such as `E0207`; the registry of codes is `diagnostics/codes.py`.
        headline: One line that says what is wrong, with names in backticks.
        labels: Places, the primary one first; empty when there is no text (a missing file).
        help: The repair, one sentence each; a `Repair` where an editor can make it.
        notes: Facts that explain the reason.
        severity: Error unless said otherwise.
    """

    code: Code
    headline: str
    labels: tuple[Label, ...] = ()
    help: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    severity: Severity = Severity.ERROR

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The repairs that an editor can make."""
        repairs = (x.edit(self.labels) for x in self.help if isinstance(x, Repair))
        return tuple(x for x in repairs if x is not None)

    def __repr__(self) -> str:
        return f"<{self.severity} {self.code}: {self.headline}>"

    def _repr_html_(self) -> str:
        head = f"<p><b>{self.severity} {self.code}</b>: {escape(self.headline)}</p>"
        said = [*(f"help: {x}" for x in self.help), *(f"note: {x}" for x in self.notes)]
        items = "".join(f"<li>{escape(x)}</li>" for x in (*map(_place, self.labels), *said))
        return f"{head}<ul>{items}</ul>" if items else head


def _place(label: Label) -> str:
    """Where a label is and what it says: `mine.cv:3:7, kron: not a name of this file`."""
    source = label.span.source
    line, column = source.position(label.span.start)
    where = f"{source.name}:{line}:{column}, {label.span.text}" if source.text else source.name
    return f"{where}: {label.message}" if label.message else where
