"""Lark's tree of a `law` to its syntax tree, every word with its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lark import Token, Tree

from curvlang.diagnostics.source import Span
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.build_study import Reader

Place = Callable[[Any], Span]
"""Where a node stands."""


def build_law(tree: Tree[Token], reader: Reader) -> s.LawDef:
    """The law of a tree."""
    place = reader.span
    claim, each, word, number, *conditions = tree.children
    assert isinstance(claim, Tree)
    bound = None
    if isinstance(word, Token) and isinstance(number, Token):
        both = Span(place(word).source, place(word).start, place(number).end)
        bound = (s.Word(str(word), both), float(str(number)))
    return s.LawDef(
        _claim(claim, reader),
        each is not None,
        bound,
        tuple(_condition(c, place) for c in conditions if isinstance(c, Tree)),
        place(tree),
    )


def _claim(tree: Tree[Token], reader: Reader) -> s.Claim:
    kids, place = tree.children, reader.span
    match tree.data:
        case "properties":
            return s.PropertyClaim(None, tuple(_word(x, place) for x in kids))
        case "property_of":
            subject, negated, *words = kids
            given = tuple(_word(x, place) for x in words)
            return s.PropertyClaim(_word(subject, place), given, negated is not None)
        case "relation":
            left, relation, right = kids
            return s.RelationClaim(_measured(left, reader), str(relation), _measured(right, reader))
        case _:
            subject, negated, target, other = kids
            a, b, c = (_word(x, place) for x in (subject, target, other))
            return s.NearnessClaim(a, b, c, negated is not None)


def _measured(tree: Any, reader: Reader) -> s.Measurement:
    words = [_word(x, reader.span) for x in tree.children if isinstance(x, Token)]
    given = tuple(reader.argument(x) for x in tree.children if isinstance(x, Tree))
    return s.Measurement(words[-1], words[0] if words[1:] else None, given, reader.span(tree))


def _condition(tree: Tree[Token], place: Place) -> s.ConditionDef:
    subject, second, value = tree.children
    counts = tree.data == "count_condition"
    return s.ConditionDef(
        _word(subject, place),
        str(second) if counts else "is",
        _word(value, place),
        not counts and second is not None,
        place(tree),
    )


def _word(token: Any, place: Place) -> s.Word:
    return s.Word(str(token), place(token))
