"""Passes that repeat an earlier one with other tensors: what rounds of a repetition come to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from curvlang.compiler.planning.plan import BlockPlan, Function

_WORD = re.compile(r"[^\W\d]\w*")
_TEMPORARY = re.compile(r"y\d+_\d+")
"""Intermediate results between passes carry the number of their definition."""


def repeated(block: BlockPlan) -> dict[int, tuple[int, tuple[tuple[str, str], ...]]]:
    """Pass number to the earlier pass with the same code, and (new, old) names of its tensors.

    Two passes are the same where their own code and that between them and the next pass differ in
    names of tensors alone.
    """
    seen: dict[tuple[str, str], tuple[int, list[str]]] = {}
    found: dict[int, tuple[int, tuple[tuple[str, str], ...]]] = {}
    for number, function in enumerate(block.passes, 1):
        forms = [_form(f) for f in (function, block.finish[number])]
        key = (forms[0][0], forms[1][0])
        names = [name for _, own in forms for name in own]
        if key in seen:
            first, before = seen[key]
            found[number] = (first, tuple(dict.fromkeys(_changed(names, before))))
        else:
            seen[key] = (number, names)
    return found


def _changed(names: list[str], before: list[str]) -> Iterator[tuple[str, str]]:
    for new, old in zip(names, before, strict=True):
        if new != old and not _TEMPORARY.fullmatch(new) and not new.startswith(("pass_", "after_")):
            yield new, old


def _form(function: Function) -> tuple[str, tuple[str, ...]]:
    """The source with its tensors numbered by appearance, and their names in that order."""
    own = {function.name, *function.reads, *function.returns}
    order: dict[str, str] = {}

    def number(word: re.Match[str]) -> str:
        text = word.group(0)
        if text in own or _TEMPORARY.fullmatch(text):
            return order.setdefault(text, f"${len(order)}")
        return text

    return _WORD.sub(number, function.source), tuple(order)
