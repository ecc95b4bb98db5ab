"""Text to syntax tree; a mistake is reported with its place, and reading continues at the next item."""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Source, Span
from curvlang.language.syntax.mistakes import explain
from curvlang.language.syntax.nodes import File, Item
from curvlang.language.syntax.problems import Problems
from curvlang.language.syntax.tables import parser
from curvlang.language.syntax.unexpected import KEYWORDS, Unexpected

if TYPE_CHECKING:
    from lark import Token, Tree, UnexpectedInput

_ITEM = re.compile(rf"(?:^|(?<=[\n\r]))(?:{'|'.join(KEYWORDS)})\b")
_NAMED = re.compile(_ITEM.pattern + r"[ \t]+(\w+)")
MOST_ERRORS = 20
"""Mistakes of syntax that are reported; a file with more is not a spec, or breaks at the first."""
DEEPEST = 200
"""Nesting that is read; nothing that is written on paper comes near it."""


def parse(source: Source) -> tuple[File, list[Diagnostic]]:
    """The items that could be read, and a diagnostic for each place that could not.

    After a mistake, reading continues at the next line that starts with a top-level keyword.
    """
    items: list[Item] = []
    problems = Problems()
    start, size = 0, len(source.text)
    while start < size and len(problems) < MOST_ERRORS:
        found, at, problem = _read(source, start, size)
        items.extend(found)
        if problem is None:
            break
        problems.append(problem)
        items.extend(_before(source, start, at))
        following = _ITEM.search(source.text, max(at, start + 1))
        start = following.start() if following else size
    return File(tuple(items)), problems


def unread(source: Source, file: File) -> frozenset[str]:
    """Names that the text defines in items that could not be read."""
    written = {m[1] for m in _NAMED.finditer(source.text)}
    return frozenset(written - {getattr(item, "name", "") for item in file.items})


def _read(source: Source, start: int, end: int) -> tuple[tuple[Item, ...], int, Diagnostic | None]:
    """The items of a stretch of text, or the place and the reason why it cannot be read."""
    from lark import Tree, UnexpectedInput

    from curvlang.language.syntax.build import Builder

    deep = _too_deep(source, start, end)
    if deep is not None:
        return (), deep.labels[0].span.end, deep
    try:
        # Spaces keep every position what it is in the whole text.
        tree = parser().parse(" " * start + source.text[start:end])
    except UnexpectedInput as error:
        return (), *_explain(error, source)
    for item in tree.children:
        assert isinstance(item, Tree)
        wrong = _unreadable(item, source)
        if wrong is not None:
            return (), item.meta.end_pos, wrong
    return Builder(source).build(tree).items, end, None


def _before(source: Source, start: int, at: int) -> tuple[Item, ...]:
    """Items that stand whole before a mistake."""
    starts = [m.start() for m in _ITEM.finditer(source.text, start, max(at, start))]
    return _read(source, start, starts[-1])[0] if len(starts) > 1 else ()


def _explain(error: UnexpectedInput, source: Source) -> tuple[int, Diagnostic]:
    """Where reading stopped, and what to say about it."""
    from lark import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

    match error:
        case UnexpectedCharacters():
            at = error.pos_in_stream or 0
            shown = source.text[at : at + 1]
            found = Unexpected("character", shown, frozenset(error.allowed or ()), source, at)
        case UnexpectedToken(token=token) if token.type != "$END":
            at = token.start_pos or 0
            found = Unexpected("token", str(token), _expected(error), source, at)
        case UnexpectedToken() | UnexpectedEOF():
            at = len(source.text)
            read = Unexpected("end", "", frozenset(), source, len(source.text)).before
            found = Unexpected("end", "", _expected(error), source, len(read))
        case _:
            raise error
    return at, explain(found)


def _expected(error: UnexpectedInput) -> frozenset[str]:
    accepted = getattr(error, "accepts", None)
    return frozenset(accepted or getattr(error, "expected", ()) or ())


def _too_deep(source: Source, start: int, end: int) -> Diagnostic | None:
    """Brackets inside brackets, counted before the text is read."""
    depth = 0
    for found in re.finditer(r'#[^\n\r]*|"[^"\n\r]*"|[(\[{]|[)\]}]', source.text[start:end]):
        sign = found.group(0)
        depth += 1 if sign in "([{" else -1 if sign in ")]}" else 0
        if depth > DEEPEST:
            at = start + found.start()
            return _nested(Span(source, at, at + 1))
    return None


def _unreadable(item: Tree[Token], source: Source) -> Diagnostic | None:
    """Operations inside operations (a sum nests as deep as it has terms), numbers beyond all."""
    from lark import Token

    waiting: list[tuple[Tree[Token] | Token, int]] = [(item, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, Token):
            glued = _glued(node, source)
            if glued is not None:
                return glued
            if node.type == "NUMBER":
                start = node.start_pos or 0
                wrong = _number(node, Span(source, start, start + len(node)))
                if wrong is not None:
                    return wrong
            continue
        if depth > DEEPEST:
            return _nested(Span(source, node.meta.start_pos, node.meta.end_pos))
        waiting += [(child, depth + 1) for child in node.children if child is not None]
    return None


def _glued(token: Token, source: Source) -> Diagnostic | None:
    """A keyword and the word after it with nothing between them: `curvaturex`, `within1e-9`."""
    start = token.start_pos or 0
    if not (start and _word(token[:1]) and _word(source.text[start - 1])):
        return None
    first = start
    while first and _word(source.text[first - 1]):
        first -= 1
    keyword = source.text[first:start]
    return Diagnostic(
        Code.E0101,
        f"`{keyword}{token}` is one word",
        (Label(Span(source, first, start + len(token)), "no space inside"),),
        (f"put a space after `{keyword}`",),
    )


def _word(character: str) -> bool:
    return character == "_" or character.isalnum()


def _number(text: str, span: Span) -> Diagnostic | None:
    """What is wrong with a number that no computer has."""
    value, mantissa = float(text), text.lower().partition("e")[0]
    if not isfinite(value):
        return Diagnostic(
            Code.E0116,
            "the number is too large for float64",
            (Label(span, "above 1.8e308"),),
            ("write a smaller one",),
        )
    if value == 0.0 and mantissa.strip("0."):
        return Diagnostic(
            Code.E0346,
            "a number rounds to zero",
            (Label(span, "below the smallest number above zero, 4.9e-324"),),
            ("write a larger one, or 0",),
        )
    return None


def _nested(span: Span) -> Diagnostic:
    return Diagnostic(
        Code.E0108,
        f"an expression is nested more than {DEEPEST} deep",
        (Label(span, "too deep"),),
        ("give a part of it a name of its own",),
    )
