"""Passes that repeat an earlier one with other tensors: the rounds of a repetition."""

from __future__ import annotations

from curvlang.compiler.codegen.function import Function
from curvlang.compiler.codegen.printer import text
from curvlang.compiler.planning.plan import BlockPlan


def repeated(block: BlockPlan) -> dict[int, tuple[int, tuple[tuple[str, str], ...]]]:
    """Pass number to the earlier pass with the same code, and (new, old) names of its tensors.

    Two passes are the same where their own code and that between them and the next pass differ in
    names of tensors alone.
    """
    seen: dict[tuple[str, str], tuple[int, list[str]]] = {}
    found: dict[int, tuple[int, tuple[tuple[str, str], ...]]] = {}
    for number, function in enumerate(block.passes, 1):
        both = (function, block.finish[number])
        forms = [_form(f) for f in both]
        key = (forms[0][0], forms[1][0])
        names = [name for _, own in forms for name in own]
        shown = {name for f in both for name in (*f.reads, *f.returned)}
        if key in seen:
            first, before = seen[key]
            pairs = zip(names, before, strict=True)
            changed = dict.fromkeys(pair for pair in pairs if pair[0] != pair[1])
            found[number] = (first, tuple(pair for pair in changed if pair[0] in shown))
        else:
            seen[key] = (number, names)
    return found


def _form(function: Function) -> tuple[str, tuple[str, ...]]:
    """The code with its tensors numbered by appearance, and their names in that order."""
    order: dict[str, str] = {}

    def number(name: str) -> str:
        return order.setdefault(name, f"${len(order)}")

    components = {str(k): name for k, name in enumerate(function.returned.values())}
    printed = text("", function.reads, function.body, components, number)
    return printed, tuple(order)
