"""The words and marks of the language, read from its grammar, so that highlighters agree with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from curvlang.ir.functions import ELEMENTWISE, FUNCTIONS, MAKERS
from curvlang.language.syntax.tables import grammar

NAME = r"[^\W\d]\w*"
INDEX = r"[^\W\d_]'*(?!\w)"
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
STRING = r'"[^"\n]*"'
COMMENT = r"#[^\n]*"
CONSTANTS = ("true", "false")
"""Words that `values` reads as booleans."""

_RULE = re.compile(r"^[?!]?([a-z_]\w*)(?:\.\d+)?:(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_TERMINAL = re.compile(r"^([A-Z_]+)(?:\.\d+)?:(.*)$", re.MULTILINE)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)+)"')
_PLAIN = ("NAME", "INDEX", "NUMBER", "STRING", "COMMENT")
"""Terminals that are patterns, not lists of words."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every word and mark that the grammar gives a meaning.

    Args:
        items: Words that start a definition.
        words: Other words, wherever they stand.
        lines: Words that start a line of a block and are ordinary names elsewhere.
        reductions: `sum` and `mean`, words before a bracket.
        functions: Tensor functions and elementwise ones.
        marks: Operators and brackets, longest first.
    """

    items: tuple[str, ...]
    words: tuple[str, ...]
    lines: tuple[str, ...]
    reductions: tuple[str, ...]
    functions: tuple[str, ...]
    marks: tuple[str, ...]

    @property
    def keywords(self) -> frozenset[str]:
        """Everything but functions and reductions."""
        return frozenset((*self.items, *self.words, *self.lines))


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The vocabulary of the grammar that ships."""
    return read(grammar())


def read(text: str) -> Vocabulary:
    """The vocabulary of a grammar.

    Words are the quoted literals of its rules and the alternatives of its terminals.
    """
    plain = re.sub(r"(^|\s)//.*$", r"\1", text, flags=re.MULTILINE)
    rules = {m.group(1): m.group(2) for m in _RULE.finditer(plain)}
    terminals = {m.group(1): m.group(2) for m in _TERMINAL.finditer(plain)}
    own = {name: _words_of(body) for name, body in terminals.items() if name not in _PLAIN}
    items = _items(rules, own)
    quoted = [q for body in rules.values() for q in _QUOTED.findall(body)]
    marks = [q for q in (*quoted, *_literals(terminals)) if not q[0].isalpha()]
    reductions = own.get("REDUCE", ())
    lines = [w for name, words in own.items() if name != "REDUCE" for w in words if w not in items]
    words = [q for q in quoted if q[0].isalpha() and q not in items]
    return Vocabulary(
        items,
        _sorted(words),
        _sorted(set(lines) - set(words)),
        _sorted(reductions),
        _sorted((*FUNCTIONS, *MAKERS, *ELEMENTWISE, "identity", "size")),
        tuple(sorted(set(marks), key=lambda m: (-len(m), m))),
    )


def _items(rules: dict[str, str], terminals: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The first word of every rule that `item` names."""
    found: list[str] = []
    for name in re.findall(r"[a-z_]\w*", rules["item"]):
        body = rules[name].split()[0]
        quoted = _QUOTED.match(body)
        found += [quoted.group(1)] if quoted else list(terminals.get(body, ()))
    return tuple(dict.fromkeys(found))


def _literals(terminals: dict[str, str]) -> list[str]:
    """Quoted marks of terminals such as `COMPARE`, not those inside a pattern."""
    return [
        q
        for name, body in terminals.items()
        if name not in _PLAIN and "/" not in body
        for q in _QUOTED.findall(body)
    ]


def _words_of(body: str) -> tuple[str, ...]:
    """The words among the alternatives of a terminal's pattern."""
    bare = re.sub(r"\\.|\[[^\]]*\]", " ", body)
    return tuple(re.findall(r"[a-z_]{2,}", bare))


def _sorted(words: object) -> tuple[str, ...]:
    return tuple(sorted(set(words)))  # type: ignore[call-overload]


def one_of(words: tuple[str, ...]) -> str:
    """A pattern that matches any of the words as a whole."""
    return rf"(?<!\w)(?:{'|'.join(words)})(?!\w)"
