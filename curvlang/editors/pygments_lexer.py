"""Highlighting of `.cv` by Pygments: registered as `cv`, so that documents show specs in colour."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pygments.lexer import RegexLexer, bygroups, default
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
)

from curvlang.editors.vocabulary import (
    COMMENT,
    CONSTANTS,
    INDEX,
    NAME,
    NUMBER,
    STRING,
    one_of,
    vocabulary,
)

_BRACKETS = "()[]{},:"


def _rules() -> dict[str, list[Any]]:
    """States: `root`, and `indices` inside the bracket after a tensor's name."""
    words = vocabulary()
    keyword = one_of((*words.items, *words.words))
    reduction = rf"({one_of(words.reductions)})"
    operators = [m for m in words.marks if m not in _BRACKETS]
    return {
        "root": [
            (r"\s+", Whitespace),
            (COMMENT, Comment.Single),
            (STRING, String.Double),
            (rf"{reduction}(\s*)(\[)", bygroups(Name.Builtin, Whitespace, Punctuation), "indices"),
            (rf"{reduction}(?=\s*\()", Name.Builtin),
            (rf"(\|>)(\s*)(?!{keyword})({NAME})", bygroups(Operator, Whitespace, Name.Function)),
            (rf"({one_of(words.items)})([ \t]+)(?!{keyword})({NAME})",
             bygroups(Keyword.Declaration, Whitespace, Name.Class)),
            (one_of(words.items), Keyword.Declaration),
            (rf"({one_of(words.lines)})(?=[ \t]+[\w\"\[])", Keyword),
            (one_of(words.words), Keyword),
            (one_of(CONSTANTS), Keyword.Constant),
            (rf"({one_of(words.functions)})(\[)", bygroups(Name.Builtin, Punctuation), "indices"),
            (rf"{one_of(words.functions)}(?=\()", Name.Builtin),
            (rf"({NAME})(\[)", bygroups(Name.Variable, Punctuation), "indices"),
            (rf"{NAME}(?=\()", Name.Function),
            (rf"{NAME}(?=[ \t]*=(?!=))", Name.Attribute),
            (r"[^\W\d_]'+(?!\w)", Name.Entity),
            (NAME, Name),
            (NUMBER, Number),
            ("|".join(map(re.escape, operators)), Operator),
            (f"[{re.escape(_BRACKETS)}]", Punctuation),
        ],
        "indices": [
            (r"[ \t]+", Whitespace),
            (INDEX, Name.Entity),
            (r"[,|()]", Punctuation),
            (r"\]", Punctuation, "#pop"),
            default("#pop"),
        ],
    }  # fmt: skip


class CvLexer(RegexLexer):
    """Tokens of curvature specs; what the grammar has no character for is an error token."""

    name = "curvlang"
    aliases: ClassVar[list[str]] = ["cv", "curvlang"]
    filenames: ClassVar[list[str]] = ["*.cv"]
    mimetypes: ClassVar[list[str]] = ["text/x-curvlang"]
    flags = re.MULTILINE | re.UNICODE
    tokens: ClassVar[dict[str, list[Any]]] = _rules()
