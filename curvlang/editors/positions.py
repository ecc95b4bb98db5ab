"""Offsets of a text and positions as editors count them: lines, and code units inside a line."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

_BREAK = re.compile(r"\r\n|\n|\r")
_UNIT = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}


def units(text: str, encoding: str = "utf-16") -> int:
    r"""Code units of a text in an encoding.

    >>> units("σ"), units("\U0001d6fc"), units("\U0001d6fc", "utf-32")
    (1, 2, 1)
    """
    if text.isascii():
        return len(text)
    codec, width = _UNIT[encoding]
    return len(text.encode(codec, "surrogatepass")) // width


@dataclass(frozen=True)
class Lines:
    """The lines of a text: only LF, CR LF and CR break one, as the protocol says."""

    text: str
    encoding: str = "utf-16"

    @cached_property
    def starts(self) -> list[int]:
        """Where each line starts."""
        return [0, *(m.end() for m in _BREAK.finditer(self.text))]

    def position(self, offset: int) -> tuple[int, int]:
        r"""Line and column of an offset, both from 0.

        >>> Lines("a\nσ\U0001d6fcb").position(4)
        (1, 3)
        """
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self.starts, offset) - 1
        return line, self._before[offset] - self._before[self.starts[line]]

    @cached_property
    def _before(self) -> Sequence[int]:
        """Code units before every offset: one long line is read at many of them."""
        if self.text.isascii():
            return range(len(self.text) + 1)
        counts = (units(character, self.encoding) for character in self.text)
        return list(accumulate(counts, initial=0))

    def offset(self, line: int, column: int) -> int:
        r"""The offset of a position; beyond the end of a line or text it is that end.

        >>> Lines("a\nσ\U0001d6fcb").offset(1, 3)
        4
        """
        if line >= len(self.starts):
            return len(self.text)
        start = self.starts[line]
        end = self.starts[line + 1] if line + 1 < len(self.starts) else len(self.text)
        content = self.text[start:end].rstrip("\r\n") if end > start else ""
        end = start + len(content)
        return bisect_left(self._before, self._before[start] + column, start, end)
