"""Diagnostics as text with the place marked below each line, in colour, or as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from curvlang.diagnostics.layout import crop, show, visible
from curvlang.diagnostics.record import Diagnostic, Label, Severity
from curvlang.diagnostics.source import Source, Span

MOST_LINES = 4
"""Lines of one label that are shown; of a longer one, the middle is left out."""

_RED, _YELLOW, _BLUE, _CYAN, _BOLD = "1;31", "1;33", "1;34", "1;36", "1"


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False) -> str:
    """All diagnostics as text, an empty line between each two, no line break at the end.

    Every label is marked under its own line: the first with `^`, the others with `-`. Labels of
    another file follow under that file's name.

    Args:
        diagnostics: What to show, in this order.
        color: Whether to write terminal colours.
    """
    return "\n\n".join(_render(d, _Pen(color, d.severity)) for d in diagnostics)


def as_data(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic as plain data; lines and columns from 1, `start` and `end` offsets from 0."""
    return {
        "code": diagnostic.code,
        "severity": str(diagnostic.severity),
        "headline": diagnostic.headline,
        "labels": [_label_data(x) for x in diagnostic.labels if _placed(x)],
        "help": list(diagnostic.help),
        "notes": [*_loose(diagnostic), *diagnostic.notes],
    }


def _label_data(label: Label) -> dict[str, Any]:
    span = label.span
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "start": span.start,
        "end": span.end,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "message": label.message,
    }


def _placed(label: Label) -> bool:
    return bool(label.span.source.text)


def _loose(diagnostic: Diagnostic) -> list[str]:
    """Messages of labels that no text wrote: facts without a place."""
    return [x.message for x in diagnostic.labels if not _placed(x) and x.message]


@dataclass(frozen=True, slots=True)
class _Pen:
    """Writes in colour, or leaves the text as it is."""

    color: bool
    severity: Severity

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.color and text else text

    @property
    def main(self) -> str:
        return _RED if self.severity is Severity.ERROR else _YELLOW


@dataclass(frozen=True, slots=True)
class _Mark:
    """The characters `start:end` of a line, marked; `message` follows the mark."""

    line: int
    start: int
    end: int
    primary: bool
    message: str = ""


def _render(diagnostic: Diagnostic, pen: _Pen) -> str:
    labels = [x for x in diagnostic.labels if _placed(x)]
    width = len(str(max((_last_line(x.span) for x in labels), default=1)))
    first = f"{diagnostic.severity}[{diagnostic.code}]"
    lines = [pen(first, pen.main) + pen(f": {visible(diagnostic.headline)}", _BOLD)]
    for number, (source, own) in enumerate(_by_source(labels)):
        arrow = "-->" if number == 0 else ":::"
        lines += _snippet(source, own, labels[0], width, arrow, pen)
    closing = list(_closing(diagnostic, width, pen))
    if labels and closing:
        lines.append(_bar(width, pen))
    return "\n".join(line.rstrip() for line in [*lines, *closing])


def _by_source(labels: list[Label]) -> list[tuple[Source, list[Label]]]:
    """Labels of each file, the primary label's file first."""
    groups: dict[Source, list[Label]] = {}
    for label in labels:
        groups.setdefault(label.span.source, []).append(label)
    return list(groups.items())


def _bar(width: int, pen: _Pen) -> str:
    return " " * (width + 2) + pen("|", _BLUE)


def _snippet(
    source: Source, labels: list[Label], primary: Label, width: int, arrow: str, pen: _Pen
) -> Iterator[str]:
    line, column = source.position(labels[0].span.start)
    place = f"{visible(source.name)}:{line}:{column}"
    yield f"{' ' * (width + 1)}{pen(arrow, _BLUE)} {place}"
    yield _bar(width, pen)
    marks = sorted(
        (m for x in labels for m in _marks(x, x is primary)), key=lambda m: (m.line, m.start)
    )
    before = None
    for number, group in groupby(marks, key=lambda m: m.line):
        if before is not None and number > before + 1:
            yield pen("...", _BLUE)
        before = number
        yield from _marked_line(source, number, list(group), width, pen)


def _marked_line(
    source: Source, number: int, marks: list[_Mark], width: int, pen: _Pen
) -> Iterator[str]:
    """The line once, then one row for each mark; once for each mark where it is cut."""
    gutter = pen(f" {number:>{width}} |", _BLUE)
    before = None
    for mark in marks:
        cut, start, end = crop(source.line(number), mark.start, mark.end)
        shown = show(cut)
        if shown != before:
            yield f"{gutter} {shown.text}"
            before = shown
        first, length = shown.mark(start, end)
        sign, style = ("^", pen.main) if mark.primary else ("-", _BLUE)
        text = f"{sign * length} {visible(mark.message)}".rstrip()
        yield f"{_bar(width, pen)} {' ' * first}{pen(text, style)}"


def _marks(label: Label, primary: bool) -> list[_Mark]:
    """One mark for each line that the label covers; the message stands at the last."""
    source, span = label.span.source, label.span
    first, column = source.position(span.start)
    last = _last_line(span)
    if first == last:
        end = column - 1 + span.end - span.start
        return [_Mark(first, column - 1, end, primary, label.message)]
    numbers = list(range(first, last + 1))
    if len(numbers) > MOST_LINES:
        numbers = [*numbers[: MOST_LINES - 1], last]
    marks = []
    for number in numbers:
        text = source.line(number)
        start = column - 1 if number == first else len(text) - len(text.lstrip())
        end = source.position(span.end)[1] - 1 if number == last else len(text.rstrip())
        message = label.message if number == last else ""
        if text.strip():
            marks.append(_Mark(number, start, end, primary, message))
    return marks


def _last_line(span: Span) -> int:
    """The line of the last character; a line break at the end belongs to the line it ends."""
    return span.source.position(max(span.start, span.end - 1))[0]


def _closing(diagnostic: Diagnostic, width: int, pen: _Pen) -> Iterator[str]:
    """Facts, then repairs."""
    indent = " " * (width + 2)
    facts = [*_loose(diagnostic), *diagnostic.notes]
    for word, texts in (("note", facts), ("help", diagnostic.help)):
        for text in texts:
            head = f"{indent}{pen('=', _BLUE)} {pen(f'{word}:', _CYAN)} "
            rest = "\n" + " " * (len(indent) + len(word) + 4)
            yield head + rest.join(visible(line) for line in text.split("\n"))
