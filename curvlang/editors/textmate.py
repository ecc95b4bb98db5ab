"""The TextMate grammar, written from the vocabulary: `python -m curvlang.editors.textmate`.

The written file ships as `curvlang.grammars/curvlang.tmLanguage.json`; a test compares the two, so
that editors follow a change of the language's grammar.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from curvlang.editors.vocabulary import (
    CONSTANTS,
    INDEX,
    NAME,
    NUMBER,
    STRING,
    one_of,
    vocabulary,
)
from curvlang.storage.atomic import write

FILE = "curvlang.tmLanguage.json"
Rule = dict[str, Any]


def textmate() -> Rule:
    """The grammar as data."""
    return {
        "name": "curvlang",
        "scopeName": "source.curvlang",
        "fileTypes": ["cv"],
        "patterns": [{"include": f"#{name}"} for name in _repository()],
        "repository": _repository(),
    }


def text() -> str:
    """The grammar as the file that ships."""
    return json.dumps(textmate(), indent=2, ensure_ascii=False) + "\n"


def shipped() -> str:
    """The text of the file that ships."""
    return (resources.files("curvlang.grammars") / FILE).read_text("utf-8")


def _repository() -> dict[str, Rule]:
    """Rules in the order in which they are tried."""
    words = vocabulary()
    keyword = one_of((*words.items, *words.words))
    operators = [re.escape(m) for m in words.marks if m not in "()[]{},:"]
    return {
        "comment": _match("#.*$", "comment.line.number-sign"),
        "string": _match(STRING, "string.quoted.double"),
        "indices": _indices(rf"({one_of((*words.reductions, *words.functions))})(\s*)(\[)", True),
        "reduction": _match(rf"{one_of(words.reductions)}(?=\s*\()", "support.function"),
        "stage": _match(
            rf"(\|>)\s*(?!{keyword})({NAME})", None, "keyword.operator.pipe", "entity.name.function"
        ),
        "definition": _match(
            rf"({one_of(words.items)})[ \t]+(?!{keyword})({NAME})",
            None,
            "storage.type",
            "entity.name.type",
        ),
        "item": _match(one_of(words.items), "storage.type"),
        "line": _match(rf"{one_of(words.lines)}(?=[ \t]+[\w\"\[])", "keyword.control"),
        "word": _match(one_of(words.words), "keyword.control"),
        "constant": _match(one_of(CONSTANTS), "constant.language"),
        "tensor": _indices(rf"({NAME})()(\[)", False),
        "function": _match(rf"{one_of(words.functions)}(?=\()", "support.function"),
        "call": _match(rf"{NAME}(?=\()", "entity.name.function"),
        "argument": _match(rf"{NAME}(?=[ \t]*=(?!=))", "variable.parameter"),
        "primed": _match(r"[^\W\d_]'+(?!\w)", "variable.parameter.index"),
        "name": _match(NAME, "variable.other"),
        "number": _match(NUMBER, "constant.numeric"),
        "operator": _match("|".join(operators), "keyword.operator"),
        "bracket": _match(r"[()\[\]{},:]", "punctuation"),
    }


def _match(pattern: str, scope: str | None, *groups: str) -> Rule:
    made: Rule = {"match": pattern}
    if scope is not None:
        made["name"] = f"{scope}.curvlang"
    if groups:
        made["captures"] = {str(k): {"name": f"{g}.curvlang"} for k, g in enumerate(groups, 1)}
    return made


def _indices(begin: str, builtin: bool) -> Rule:
    """A tensor's or reduction's bracket: letters with their primes."""
    return {
        "begin": begin,
        "beginCaptures": {
            "1": {"name": f"{'support.function' if builtin else 'variable.other.tensor'}.curvlang"},
            "3": {"name": "punctuation.curvlang"},
        },
        # A bracket that is not closed ends where anything but indices stands.
        "end": r"\]|(?![\s,|()]|[^\W\d_])",
        "endCaptures": {"0": {"name": "punctuation.curvlang"}},
        "patterns": [
            _match(INDEX, "variable.parameter.index"),
            _match("[,|()]", "punctuation"),
        ],
    }


if __name__ == "__main__":
    write(Path(str(resources.files("curvlang.grammars") / FILE)), text().encode())
