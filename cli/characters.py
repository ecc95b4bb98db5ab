"""Characters that an output cannot show, written in those of ASCII: a pipe or a log need not be UTF-8."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Iterator
from io import TextIOWrapper

NAME = "curvlang.ascii"
WRITTEN = {
    "′": "'", "…": "...", "–": "-", "—": "-", "−": "-", "·": ".", "×": "x", "⊗": "(x)", "⊕": "(+)", "⊙": "(.)",
    "∞": "inf", "∇": "grad ", "√": "sqrt ", "Σ": "sum", "∂": "d", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->",
    "±": "+-", "λ": "lambda", "α": "alpha", "β": "beta", "γ": "gamma", "θ": "theta", "Λ": "Lambda", "‖": "||",
    "█": "#", "▀": '"', "▄": "_", "│": "|", "─": "-", "⟨": "<", "⟩": ">",
}  # fmt: skip
"""How characters are written that have no letter of ASCII inside."""

MARKS = {"<sub>": "_", "<super>": "^"}


def shown_in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What is written in the place of characters that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_written(error.object[error.start : error.end])), error.end


def _written(text: str) -> Iterator[str]:
    """The characters one by one; an index or an exponent is marked where it begins."""
    before = ""
    for character in text:
        kind = unicodedata.decomposition(character).partition(" ")[0]
        if kind != before:
            yield MARKS.get(kind, "")
        before = kind
        # An index or a letter with an accent is its letter.
        parts = unicodedata.normalize("NFKD", WRITTEN.get(character, character))
        yield "".join(WRITTEN.get(x, x) for x in parts).encode("ascii", "ignore").decode() or "?"


def write_any_character() -> None:
    """Let standard output show every text, in its own encoding where that has the characters."""
    codecs.register_error(NAME, shown_in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors=NAME)
