"""Argument values: expressions of constants become numbers, words stay words, lists become tuples."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Span
from curvlang.ir.constants import ARITHMETIC
from curvlang.ir.expr import Binary, BinaryOperator, Call, Expr, Negate, Number, Ref
from curvlang.language.chain import Value
from curvlang.language.partition import COUNTED
from curvlang.language.syntax.nodes import ListValue, Text, ValueSyntax
from curvlang.language.syntax.problems import Problems

_SHOWN = 8
"""Entries of a list that a message shows."""
LONGEST_LIST = 10_000
"""Entries a list may have that are written out."""
LONGEST_REPEATED = 1_000
"""Entries a list may have that `[16] * 8` makes: a slip such as `[16] * 1e9` is a diagnostic."""


def value(syntax: ValueSyntax, scope: Mapping[str, Value], problems: Problems) -> Value | None:
    """The value that an argument states; None (and a diagnostic) where it has none.

    Args:
        syntax: The text after the `=`.
        scope: Parameters of the surrounding definition, by name.
        problems: Collects diagnostics.
    """
    match syntax:
        case Text(value=text):
            return text
        case ListValue():
            return _list(syntax, scope, problems)
        case _:
            return _scalar(syntax, scope, problems)


def _list(syntax: ListValue, scope: Mapping[str, Value], problems: Problems) -> Value | None:
    items = [value(x, scope, problems) for x in syntax.items]
    if any(x is None for x in items):
        return None
    times: Value | None = 1
    if syntax.times is not None:
        times = _scalar(syntax.times, scope, problems)
    if times is None:
        return None
    if (
        isinstance(times, bool)
        or not isinstance(times, int | float)
        or not float(times).is_integer()
        or times < 0
    ):
        problems.append(_wrong("a list is repeated a whole number of times", syntax.span))
        return None
    longest, how = (
        (LONGEST_LIST, "") if syntax.times is None else (LONGEST_REPEATED, " that `*` makes")
    )
    entries = int(times) * sum(len(x) if isinstance(x, tuple) else 1 for x in items)
    if max(entries, int(times) * len(items)) > longest:
        headline = f"a list{how} has at most {longest} entries"
        problems.append(_wrong(headline, syntax.span))
        return None
    return tuple(x for x in items if x is not None) * int(times)


def _scalar(expr: Expr, scope: Mapping[str, Value], problems: Problems) -> Value | None:
    match expr:
        case Number(value=number):
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        case Ref(name=name, indices=()):
            if name in scope:
                return scope[name]
            return {"true": True, "false": False}.get(name, name)
        case Negate(operand=operand):
            inner = _scalar(operand, scope, problems)
            return -inner if isinstance(inner, int | float) else _not_constant(expr, problems)
        case Call(function=function, arguments=(argument,), indices=()) if function in COUNTED:
            count = _scalar(argument, scope, problems)
            return None if count is None else f"{function}({count})"
        case Binary(operator=operator, left=left, right=right):
            x, y = _scalar(left, scope, problems), _scalar(right, scope, problems)
            return _arithmetic(operator, x, y, expr, problems)
        case _:
            return _not_constant(expr, problems)


def _arithmetic(
    operator: BinaryOperator, x: Value | None, y: Value | None, expr: Expr, problems: Problems
) -> Value | None:
    if isinstance(x, tuple) and operator is BinaryOperator.MULTIPLY and isinstance(y, int):
        return x * y if len(x) * y <= LONGEST_REPEATED else _not_constant(expr, problems)
    if not isinstance(x, int | float) or not isinstance(y, int | float):
        return None if x is None or y is None else _not_constant(expr, problems)
    try:
        found = ARITHMETIC[operator](float(x), float(y))
    except (ZeroDivisionError, OverflowError):
        return _not_constant(expr, problems)
    if isinstance(found, complex) or not isfinite(found):
        return _not_constant(expr, problems)
    return int(found) if found.is_integer() and abs(found) < 2**53 else found


def _not_constant(expr: Expr, problems: Problems) -> Value | None:
    problems.say(
        Code.E0701,
        "this is not a value",
        Label(expr.span, "expected a number, a word, a list or a text"),
        "a value is made of numbers, words and parameters in scope",
    )
    return None


def _wrong(headline: str, span: Span) -> Diagnostic:
    return Diagnostic(Code.E0701, headline, (Label(span),))


def show(made: object) -> str:
    """A value as the language writes it."""
    match made:
        case bool():
            return "true" if made else "false"
        case float():
            return f"{made:g}"
        case tuple():
            shown = [*map(show, made[:_SHOWN]), *(["…"] if len(made) > _SHOWN else [])]
            return "[" + ", ".join(shown) + "]"
        case _:
            return str(made)
