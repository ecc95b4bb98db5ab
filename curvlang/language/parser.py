"""Text to syntax tree; a mistake is reported with its place, and reading goes on at the next item."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Source, Span
from curvlang.language.mistakes import headline_for
from curvlang.language.syntax import File, Item

if TYPE_CHECKING:
    from lark import Lark, UnexpectedInput

KEYWORDS = ("use", "curvature", "transform", "inverse", "task", "evaluate", "study", "law")
_ITEM = re.compile(rf"^(?:{'|'.join(KEYWORDS)})\b", re.MULTILINE)


def grammar() -> str:
    """The text of the grammar."""
    return (resources.files("curvlang.grammars") / "curvlang.lark").read_text("utf-8")


@lru_cache(maxsize=1)
def _lark() -> Lark:
    from lark import Lark

    return Lark(grammar(), parser="lalr", propagate_positions=True, maybe_placeholders=True)


def parse(source: Source) -> tuple[File, list[Diagnostic]]:
    """The items that could be read, and a diagnostic for each place that could not.

    After a mistake, reading goes on at the next line that starts with a top-level keyword.
    """
    from lark import UnexpectedInput

    from curvlang.language.build import Builder

    items: list[Item] = []
    problems: list[Diagnostic] = []
    start = 0
    while start < len(source.text):
        text = " " * start + source.text[start:]
        try:
            tree = _lark().parse(text)
        except UnexpectedInput as error:
            at, problem = _explain(error, source)
            problems.append(problem)
            items.extend(_before(source, start, at))
            following = _ITEM.search(source.text, max(at, start) + 1)
            start = following.start() if following else len(source.text)
        else:
            items.extend(Builder(source).build(tree).items)
            break
    return File(tuple(items)), problems


def _before(source: Source, start: int, at: int) -> tuple[Item, ...]:
    """Items that stand whole before a mistake."""
    from lark import UnexpectedInput

    from curvlang.language.build import Builder

    starts = [m.start() for m in _ITEM.finditer(source.text, start, max(at, start))]
    if len(starts) < 2:
        return ()
    try:
        tree = _lark().parse(" " * start + source.text[start : starts[-1]])
    except UnexpectedInput:
        return ()
    return Builder(source).build(tree).items


def _explain(error: UnexpectedInput, source: Source) -> tuple[int, Diagnostic]:
    from lark import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

    match error:
        case UnexpectedCharacters():
            at = error.pos_in_stream
            span = Span(source, at, at + 1)
            shown = source.text[at : at + 1]
            code, headline, help_ = headline_for("character", shown, set(error.allowed or ()), source, at)
        case UnexpectedToken(token=token) if token.type != "$END":
            at = token.start_pos or 0
            span = Span(source, at, at + len(token))
            expected = set(error.accepts or error.expected)
            code, headline, help_ = headline_for("token", str(token), expected, source, at)
        case UnexpectedToken() | UnexpectedEOF():
            at = len(source.text.rstrip())
            span = Span(source, max(0, at - 1), max(1, at))
            expected = set(getattr(error, "accepts", None) or error.expected)
            code, headline, help_ = headline_for("end", "", expected, source, at)
            at = len(source.text)
        case _:
            raise error
    return at, Diagnostic(code, headline, (Label(span, "here"),), help_)
