"""Words that the prose does without, and where it stands: comments, texts of code, and pages."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

WORDS: dict[str, str] = {
    r"(?<!\bthere )\b(?:is|are|was|were) no\b(?! (?:longer|more|less|fewer))": "is not a …, or there is no …",
    r"\bnobody\b": "no one, or the passive voice",
    r"\banew\b": "again",
    r"\bwhat\b[^.,:;]{1,40} comes? to\b": "the result, the sum",
    r"\bthat of [^.,:;]{1,40} (?:is|are)\b": "name the thing",
    r"\bturned round\b": "reversed",
    r"\bmend(?:s|ed|ing)?\b": "repair",
    r"\bforet(?:ell|ells|old)\b": "predict",
    r"\bstand(?:s|ing)? in front of\b": "precedes, or shadows",
    r"\bstood in front of\b": "preceded, or shadowed",
    r"\b(?:is|are) (?:told|asked) (?:of|how|what|about)\b": "is notified, receives",
    r"\bthat (?:is|are) (?-i:none)\b": "is not a …",
    r"\bstands? behind\b": "follows, or names what it is",
    r"\basked for their\b": "the metric of the queries",
    r"\b(?-i:Told)\b(?! apart)": "the receiver of a progress report",
}
"""Pattern to what standard English has in its place."""

_PATTERNS = [re.compile(f"(?i:{word})") for word in WORDS]


def prose_of(text: str) -> Iterator[str]:
    """Every comment, docstring and message of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def words(path: str, text: str) -> Iterator[str]:
    """Words of the list that stand in a file: its prose where it is Python, else all of it."""
    pieces = prose_of(text) if path.endswith(".py") else [text]
    for piece in pieces:
        for pattern in _PATTERNS:
            for found in pattern.finditer(piece):
                yield f"{path}: {' '.join(found[0].split())}"
