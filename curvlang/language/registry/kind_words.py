"""Kinds of values in words: for messages, signatures and completions."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import assert_never

from curvlang.language.chain import Value
from curvlang.language.registry.kinds import (
    Anything,
    Blocks,
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


@dataclass(frozen=True, slots=True)
class KindWords:
    """A kind in words.

    Args:
        noun: What a value is: `a whole number`.
        type: As signatures write it: `int`, `{layer, parameter}`, `float or same`.
        example: A value.
        words: The words that may be written for one.
        limits: What its numbers must be, where that is limited: `1 or more`.
    """

    noun: str
    type: str
    example: Value
    words: tuple[str, ...] = ()
    limits: str = ""


def in_words(kind: Kind) -> KindWords:
    """A kind in words."""
    match kind:
        case Integer(limits=limits):
            least = int(limits.least) if isfinite(limits.least) else 1
            return KindWords("a whole number", "int", least, limits=_limited(limits))
        case Real(limits=limits):
            return KindWords("a number", "float", 0.1, limits=_limited(limits))
        case Truth():
            return KindWords("`true` or `false`", "bool", True, ("true", "false"))
        case Choice(words=words):
            shown = "{" + ", ".join(words) + "}" if words else "word"
            return KindWords("a word", shown, words[0] if words else "word", words)
        case String():
            return KindWords("a text", "text", "name")
        case NameList():
            return KindWords("a name or a list of names", "names", "name")
        case NumberList(of=of, empty=empty):
            one, plural = in_words(of), "whole numbers" if isinstance(of, Integer) else "numbers"
            noun = f"a list of {plural}" + ("" if empty else ", with at least one")
            each = f"{one.limits} each" if one.limits else ""
            return KindWords(noun, f"{one.type}s", (one.example,), limits=each)
        case NumberOr(of=of, word=word):
            one = in_words(of)
            both = f"`{word}`, or {one.limits}" if one.limits else ""
            return KindWords(
                f"`{word}` or {one.noun}", f"{one.type} or {word}", word, (word,), both
            )
        case CurvatureName():
            return KindWords("the name of a curvature", "curvature", "name")
        case Blocks():
            return KindWords(
                "a word for blocks or patterns of names",
                "{layer, parameter, neuron, head(count), unit(size), names}",
                "layer",
                ("layer", "parameter", "neuron", "head(count)", "unit(size)"),
            )
        case Anything():
            return KindWords("a value", "any", "name")
        case _:
            assert_never(kind)


def _limited(limits: Limits) -> str:
    return "" if limits == Limits() else str(limits)
