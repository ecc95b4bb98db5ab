"""Pages as GitHub reads them, in the dialect of the site's generator: lists, links, places in lists."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_MARKER = re.compile(r"(?:[*+-]|\d+\.) +")
_CODE = re.compile(r"(`+).+?\1")
_FENCE = re.compile(r"(`{3,}|~{3,})")
_LINK = re.compile(
    r"(?P<code>(`+)(?:(?!\2)(?:[^\n]|\n(?!\n)))+?\2)"
    r"|(?P<shown>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<address>[^)\s]+)\)"
)
"""Code in a line, which has no links, or a link, whose text may have code."""
STEP = 4
"""Columns by which the generator wants what belongs to an item of a list to be indented."""


def relinked(text: str, source: Path, target: Path, staged: Callable[[Path], Path | None]) -> str:
    """A page with its links to files as they lie on the site.

    Args:
        text: The page.
        source: Where it lies in the repository.
        target: Where it lies on the site.
        staged: Where a file of the repository lies on the site; None for one that does not.

    Raises:
        FileNotFoundError: For a link to a file that the site does not have.
    """

    def changed(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        shown, address = found["shown"], found["address"]
        path, mark, anchor = address.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        goal = staged(Path(os.path.normpath(source.parent / path)))
        if goal is None:
            raise FileNotFoundError(f"{source}: {path} is not on the site")
        relative = os.path.relpath(goal, target.parent).replace(os.sep, "/")
        return f"{shown}({relative}{mark}{anchor})"

    return "".join(part if code else _LINK.sub(changed, part) for code, part in _without_code(text))


def _without_code(text: str) -> Iterator[tuple[bool, str]]:
    """Pieces of a page, and whether each is code between fences."""
    inside, piece, closing = False, "", ""
    for line in text.splitlines(keepends=True):
        fence = _FENCE.match(line.lstrip())
        if fence and (not inside or line.strip() == closing):
            if not inside:
                yield False, piece
                piece, inside, closing = line, True, fence[1]
            else:
                yield True, piece + line
                piece, inside = "", False
            continue
        piece += line
    yield inside, piece


def normalised(text: str) -> str:
    """As the generator wants them: what belongs to an item indented by four, a list after an empty line, `|` in code of tables."""
    return "\n".join(_lines(text.split("\n")))


def _lines(lines: list[str]) -> Iterator[str]:
    items: list[int] = []  # the columns at which the text of every open item begins
    closing, before = "", ""
    for line in lines:
        rest = line.lstrip(" ")
        column = len(line) - len(rest)
        if closing:
            yield _moved(line, items)
            closing = "" if rest == closing else closing
            before = ""  # nothing goes on after code
            continue
        if not rest:
            yield ""
            before = ""
            continue
        lazy = before and items and column < items[-1] and not _MARKER.match(rest)
        paragraph = before and not items
        while items and column < items[-1] and not lazy:
            items.pop()
        if rest.startswith("|"):
            # GitHub ends a cell at every bar but an escaped one; the generator ends none inside of code.
            line = _CODE.sub(lambda code: code[0].replace(r"\|", "|"), line)
        fence, marker = _FENCE.match(rest), _MARKER.match(rest)
        if marker and column - (items[-1] if items else 0) < STEP:
            if paragraph:
                yield ""
            yield " " * (STEP * len(items)) + rest
            items.append(column + len(marker[0]))
        else:
            yield _moved(line, items)
        closing = fence[1] if fence else ""
        before = line


def _moved(line: str, items: list[int]) -> str:
    """A line of an item, at the generator's column."""
    if not items:
        return line
    column = len(line) - len(line.lstrip(" "))
    return " " * (STEP * len(items) + max(0, column - items[-1])) + line.lstrip(" ")


def title(text: str) -> str:
    """The first heading of a page, without marks of code."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1].replace("`", "") if found else ""
