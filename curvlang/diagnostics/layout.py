"""A line of a spec as it is shown: columns of a terminal instead of characters of a text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

TAB = 4
"""Columns between tab stops."""
WIDEST = 160
"""Columns of a line that are shown; a longer line is cut around what is marked."""
_MARGIN = 40
"""Columns kept in front of the mark where a line is cut."""


def visible(text: str) -> str:
    r"""Text that cannot move the cursor: control characters become pictures of themselves.

    >>> visible("a\x1b[31m")
    'a␛[31m'
    """
    return "".join(map(_picture, text))


def _picture(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    # Format characters (direction marks among them), surrogates, C1 controls, line separators.
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "�" if unicodedata.category(character) in hidden else character


def columns(text: str) -> int:
    r"""Columns that a text takes: two for wide characters, none for combining marks.

    >>> columns("σ²"), columns("曲率"), columns("e\u0301")
    (2, 4, 1)
    """
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@dataclass(frozen=True, slots=True)
class ShownLine:
    """A line as shown, and the column at which each of its characters starts.

    `starts` has one entry more than the line has characters: the column behind the last.
    """

    text: str
    starts: tuple[int, ...]

    def mark(self, start: int, end: int) -> tuple[int, int]:
        """First column and length of the mark below the characters `start:end`, at least one."""
        last = len(self.starts) - 1
        first = self.starts[max(0, min(start, last))]
        return first, max(1, self.starts[max(0, min(end, last))] - first)


def show(line: str) -> ShownLine:
    """Tabs become spaces up to the next stop, control characters become visible."""
    parts: list[str] = []
    starts = [0]
    for character in line:
        at = starts[-1]
        part = " " * (TAB - at % TAB) if character == "\t" else _picture(character)
        parts.append(part)
        starts.append(at + columns(part))
    return ShownLine("".join(parts), tuple(starts))


def crop(line: str, start: int, end: int) -> tuple[str, int, int]:
    """The part of an overlong line around the characters `start:end`, and where they are in it."""
    if len(line) <= WIDEST:
        return line, start, end
    first = max(0, min(start - _MARGIN, len(line) - WIDEST))
    last = min(len(line), first + WIDEST)
    head, tail = "…" if first else "", "…" if last < len(line) else ""
    shift = len(head) - first
    return head + line[first:last] + tail, start + shift, min(end, last) + shift
