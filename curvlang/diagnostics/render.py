"""Diagnostics as text for a person, or as plain data for a program."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from curvlang.diagnostics.diagnostic import Diagnostic, Label, Severity
from curvlang.diagnostics.source import NOWHERE

_RED, _YELLOW, _BLUE, _BOLD, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[1m", "\x1b[0m"
_TAB = 4
_LONGEST = 160
"""Characters of a source line that are shown; longer ones are cut around the label."""


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False) -> str:
    """All diagnostics as text, a blank line between them."""
    return "\n\n".join("\n".join(_render(d, _Paint(color))) for d in diagnostics)


def as_data(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic as plain data, lines and columns counted from 1."""
    return {
        "code": diagnostic.code,
        "severity": str(diagnostic.severity),
        "headline": diagnostic.headline,
        "labels": [_label_data(label) for label in _placed(diagnostic)],
        "help": list(diagnostic.help),
        "notes": list(diagnostic.notes),
    }


def _label_data(label: Label) -> dict[str, Any]:
    line, column = label.span.source.position(label.span.start)
    end_line, end_column = label.span.source.position(label.span.end)
    return {
        "file": label.span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "message": label.message,
    }


class _Paint:
    def __init__(self, on: bool) -> None:
        self.on = on

    def __call__(self, text: str, *codes: str) -> str:
        return f"{''.join(codes)}{text}{_PLAIN}" if self.on and text else text


def _placed(diagnostic: Diagnostic) -> list[Label]:
    return [x for x in diagnostic.labels if x.span is not NOWHERE and x.span.source.text]


def _render(diagnostic: Diagnostic, paint: _Paint) -> Iterator[str]:
    tone = _RED if diagnostic.severity is Severity.ERROR else _YELLOW
    head = paint(f"{diagnostic.severity}[{diagnostic.code}]", tone, _BOLD)
    yield f"{head}: {diagnostic.headline}"
    labels = _placed(diagnostic)
    numbers = [x.span.source.position(x.span.start)[0] for x in labels]
    width = max((len(str(n)) for n in numbers), default=1)
    bar = paint("|", _BLUE)
    gutter = " " * (width + 2)
    if labels:
        line, column = labels[0].span.source.position(labels[0].span.start)
        yield f"{' ' * (width + 1)}{paint('-->', _BLUE)} {labels[0].span.source.name}:{line}:{column}"
        yield f"{gutter}{bar}"
    for k, (number, label) in enumerate(zip(numbers, labels, strict=True)):
        text, marker = _excerpt(label)
        if k and (number != numbers[k - 1] or label.span.source != labels[k - 1].span.source):
            if label.span.source != labels[k - 1].span.source:
                yield f"{' ' * (width + 1)}{paint('-->', _BLUE)} {label.span.source.name}:{number}"
            yield f"{gutter}{bar}"
        if not k or number != numbers[k - 1] or label.span.source != labels[k - 1].span.source:
            yield f" {paint(str(number).rjust(width), _BLUE)} {bar} {text}".rstrip()
        yield f"{gutter}{bar} {paint(f'{marker} {label.message}'.rstrip(), tone if not k else _BLUE)}"
    if labels and (diagnostic.help or diagnostic.notes):
        yield f"{gutter}{bar}"
    for kind, texts in (("help", diagnostic.help), ("note", diagnostic.notes)):
        for text in texts:
            yield f"{gutter}{paint('=', _BLUE)} {paint(kind, _BOLD)}: {text}"


def _excerpt(label: Label) -> tuple[str, str]:
    """The line of a label, tabs expanded, and the carets under it by display width."""
    number, column = label.span.source.position(label.span.start)
    line = label.span.source.line(number)
    before, inside = line[: column - 1], line[column - 1 :][: label.span.end - label.span.start]
    start = _width(before)
    length = max(1, _width(before + inside) - start)
    shown = _expand(line)
    if len(shown) > _LONGEST:
        cut = max(0, start - _LONGEST // 2)
        shown = ("…" if cut else "") + shown[cut : cut + _LONGEST] + "…"
        start = start - cut + (1 if cut else 0)
        length = max(1, min(length, _LONGEST - start))
    return shown, " " * start + "^" * length


def _expand(text: str) -> str:
    out: list[str] = []
    for character in text:
        if character == "\t":
            out.append(" " * (_TAB - _width("".join(out)) % _TAB))
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs"):
            out.append("�")
        else:
            out.append(character)
    return "".join(out)


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    total = 0
    for character in text:
        if character == "\t":
            total += _TAB - total % _TAB
        elif unicodedata.combining(character):
            continue
        else:
            total += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return total
