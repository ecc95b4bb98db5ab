"""Typical mistakes and the message each deserves: the parser's help."""

from __future__ import annotations

import re

from curvlang.diagnostics.source import Source

_WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": 'a text in double quotes',
    "INDEX": "an index letter",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "PLUS": "`+`",
    "MINUS": "`-`",
    "STAR": "`*`",
    "SLASH": "`/`",
    "CIRCUMFLEX": "`^`",
    "REDUCE": "`sum[…]` or `mean[…]`",
    "PART": "`data`, `model`, `loss` or `train`",
    "STUDY_KEY": "`task`, `path` or `seeds`",
    "LAW": "`law`",
    "$END": "the end of the file",
    "COMPARE": "a comparison",
}
_ITEMS = {"CURVATURE", "TRANSFORM", "INVERSE", "TASK", "EVALUATE", "STUDY", "USE", "LAW"}


def expected_words(expected: set[str]) -> str:
    """What could stand there, in words, at most six of them."""
    rest = set(expected)
    words: list[str] = []
    if len(rest & _ITEMS) > 3:
        rest -= _ITEMS
        words.append("a definition such as `curvature …`")
    words += sorted(_WORDS.get(x, f"`{_symbol(x)}`") for x in rest)
    return ", ".join(words[:6]) + (" …" if len(words) > 6 else "")


def _symbol(name: str) -> str:
    return {"__ANON_0": "|>", "__ANON_1": "==", "__ANON_2": "->", "MORETHAN": ">"}.get(
        name, name.lower()
    )


def headline_for(
    kind: str, found: str, expected: set[str], source: Source, at: int
) -> tuple[str, str, tuple[str, ...]]:
    """Code, headline and repair for what the parser could not read."""
    before = source.text[:at].rstrip()
    word = re.search(r"[\w']*$", before)
    last = word.group(0) if word else ""
    wanted = (f"expected {expected_words(expected)}",) if expected else ()
    if kind == "end":
        if "RBRACE" in expected:
            return "E0103", "the file ends inside `{ … }`", ("close the block with `}`",)
        return "E0103", "the file ends in the middle of a definition", wanted
    if found == "|" or (found == ">" and before.endswith("|")):
        return "E0102", f"`{found}` is not an operator", ("stages are joined by `|>`",)
    if before.endswith("*") and found == "*":
        return "E0104", "`**` is not an operator", ("write powers with `^`",)
    if found == "=" and before.endswith("="):
        return "E0104", "`==` compares, and only `when` compares", ("define with a single `=`",)
    if found in ("'", "’") and kind == "character":
        return "E0102", "a prime belongs to an index letter", ("write `i'` inside `[…]`",)
    if found == '"':
        return "E0102", "a text is not closed on its line", ('end it with `"`',)
    if kind == "character":
        return "E0102", f"`{found}` (U+{ord(found):04X}) has no meaning here", wanted
    if "INDEX" in expected:
        return "E0105", f"`{found}` is not an index: an index is one letter, with primes", wanted
    if re.match(r"[\w(]", found) and last and not expected.isdisjoint({"STAR"}) and "NAME" not in expected:
        return (
            "E0104",
            f"`{found}` follows `{last}` with nothing between them",
            ("multiplication is always written: put `*` between them", *wanted),
        )
    if last and last in ("curvature", "transform", "inverse", "task", "study"):
        return "E0101", f"`{last}` needs a name", wanted
    return "E0101", f"`{found}` cannot stand here", wanted
