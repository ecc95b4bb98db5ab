"""Kinds of values in words: for messages, signatures and completions."""

from __future__ import annotations

from math import isfinite
from typing import assert_never

from curvlang.language.chain import Value
from curvlang.language.registry.kinds import (
    Anything,
    Choice,
    CurvatureName,
    Integer,
    Kind,
    Limits,
    NameList,
    NumberList,
    NumberOr,
    Real,
    String,
    Truth,
)


def noun(kind: Kind) -> str:
    """What a value of a kind is: `a whole number`."""
    match kind:
        case Integer():
            return "a whole number"
        case Real():
            return "a number"
        case Truth():
            return "`true` or `false`"
        case Choice():
            return "a word"
        case String():
            return "a text"
        case NameList():
            return "a name or a list of names"
        case NumberList(of=of, empty=empty):
            plural = "whole numbers" if isinstance(of, Integer) else "numbers"
            return f"a list of {plural}" + ("" if empty else ", with at least one")
        case NumberOr(of=of, word=word):
            return f"`{word}` or {noun(of)}"
        case CurvatureName():
            return "the name of a curvature"
        case Anything():
            return "a value"
        case _:
            assert_never(kind)


def example_of(kind: Kind) -> Value:
    """A value of a kind."""
    match kind:
        case Integer(limits=limits):
            return int(limits.least) if isfinite(limits.least) else 1
        case Real():
            return 0.1
        case Truth():
            return True
        case Choice(words=words):
            return words[0] if words else "word"
        case String() | NameList() | CurvatureName() | Anything():
            return "name"
        case NumberList(of=of):
            return (example_of(of),)
        case NumberOr(word=word):
            return word
        case _:
            assert_never(kind)


def type_of(kind: Kind) -> str:
    """A kind as signatures write it: `int`, `{layer, parameter}`, `float or same`."""
    match kind:
        case Integer():
            return "int"
        case Real():
            return "float"
        case Truth():
            return "bool"
        case Choice(words=words):
            return "{" + ", ".join(words) + "}" if words else "word"
        case String():
            return "text"
        case NameList():
            return "names"
        case NumberList(of=of):
            return f"{type_of(of)}s"
        case NumberOr(of=of, word=word):
            return f"{type_of(of)} or {word}"
        case CurvatureName():
            return "curvature"
        case Anything():
            return "any"
        case _:
            assert_never(kind)


def words_of(kind: Kind) -> tuple[str, ...]:
    """The words that may be written for a value of a kind."""
    match kind:
        case Choice(words=words):
            return words
        case NumberOr(word=word):
            return (word,)
        case Truth():
            return ("true", "false")
        case _:
            return ()


def limits_of(kind: Kind) -> str:
    """What numbers of a kind must be, where that is limited: `1 or more`."""
    match kind:
        case Integer(limits=limits) | Real(limits=limits):
            return "" if limits == Limits() else str(limits)
        case NumberList(of=of):
            return f"{inner} each" if (inner := limits_of(of)) else ""
        case NumberOr(of=of, word=word):
            return f"`{word}`, or {inner}" if (inner := limits_of(of)) else ""
        case _:
            return ""
