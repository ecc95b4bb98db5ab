"""Where a piece of a spec stands: the text it came from and a range of characters."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

_BREAK = re.compile(r"\r\n|\n|\r")
"""What ends a line, as editors see it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A named text. `name` is what a message shows: a path, or `<text>`."""

    name: str
    text: str

    def position(self, offset: int) -> tuple[int, int]:
        r"""Line and column of a character offset, both counted from 1.

        >>> Source("x.cv", "ab\ncd").position(4)
        (2, 2)
        """
        starts = _line_starts(self.text)
        line = bisect_right(starts, max(0, min(offset, len(self.text))))
        return line, offset - starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of one line (counted from 1), without its line break."""
        return _line(self.text, number)


@lru_cache(maxsize=8)
def _line_starts(text: str) -> tuple[int, ...]:
    """Where each line starts; kept, since many diagnostics ask about one text."""
    return (0, *(m.end() for m in _BREAK.finditer(text)))


@lru_cache(maxsize=64)
def _line(text: str, number: int) -> str:
    """One line, kept: thousands of diagnostics can stand on a line of a hundred thousand characters."""
    starts = _line_starts(text)
    if not 1 <= number <= len(starts):
        return ""
    end = starts[number] if number < len(starts) else len(text)
    return text[starts[number - 1] : end].rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class Span:
    """The characters `start:end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        """The characters themselves."""
        return self.source.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """The range from here to the end of `other`."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))


NOWHERE = Span(Source("<nowhere>", ""), 0, 0)
"""For nodes that no text wrote: built-in stages and rewritten expressions."""
