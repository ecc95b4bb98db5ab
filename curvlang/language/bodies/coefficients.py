"""Numbers of a formula that are not finite: divisions by zero, logarithms of 0, overflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.ir.constants import ARITHMETIC
from curvlang.ir.expr import (
    Apply,
    Binary,
    BinaryOperator,
    BodyStatement,
    Define,
    Expr,
    Negate,
    Number,
    Yield,
)
from curvlang.ir.indices import children

FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "abs": abs,
    "max": max,
    "min": min,
}
"""The elementwise functions of numbers."""


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A number times what is not known yet; the number alone where `alone`."""

    number: float = 1.0
    alone: bool = False


OPEN = _Scaled()
"""What nothing is known of."""


def check_coefficients(body: Sequence[BodyStatement]) -> list[Diagnostic]:
    """The innermost expressions of a body whose number is not finite."""
    problems: list[Diagnostic] = []
    for statement in body:
        if isinstance(statement, Define | Yield):
            _scaled(statement.value, problems)
    return problems


def _scaled(expr: Expr, problems: list[Diagnostic]) -> _Scaled:
    parts = [_scaled(part, problems) for part in children(expr)]
    try:
        found = _combined(expr, parts)
    except (ZeroDivisionError, OverflowError, ValueError):
        found = _Scaled(math.inf)
    if isinstance(found.number, complex) or not math.isfinite(found.number):
        problems.append(_refused(expr))
        return OPEN
    return found


def _combined(expr: Expr, parts: Sequence[_Scaled]) -> _Scaled:
    """The number of an expression from those of its parts."""
    match expr, parts:
        case Number(value=value), _:
            return _Scaled(value, alone=True)
        case Negate(), [x]:
            return _Scaled(-x.number, x.alone)
        case Binary(operator=BinaryOperator.MULTIPLY | BinaryOperator.DIVIDE as sign), [x, y]:
            return _Scaled(ARITHMETIC[sign](x.number, y.number), x.alone and y.alone)
        case Binary(operator=BinaryOperator.POWER as sign), [x, y] if y.alone:
            # A number before a base is taken to the power with it; its sign stands with the base.
            base = x.number if x.alone else abs(x.number)
            return _Scaled(ARITHMETIC[sign](base, y.number), x.alone)
        case Binary(operator=sign), [x, y] if x.alone and y.alone:
            return _Scaled(ARITHMETIC[sign](x.number, y.number), alone=True)
        case Apply(function=function), _ if parts and all(x.alone for x in parts):
            return _Scaled(FUNCTIONS[function](*(x.number for x in parts)), alone=True)
        case _:
            return OPEN


def _refused(expr: Expr) -> Diagnostic:
    return Diagnostic(
        Code.E0423,
        "a number of this formula is not finite",
        (Label(expr.span, "divided by zero, or too large to be computed with"),),
        ("take the zero out of the divisor, or give a parameter another value",),
    )
