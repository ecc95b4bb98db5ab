"""Numbers of a formula that cannot be computed with: divisions by zero, overflow, products that round to 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.ir.constants import ARITHMETIC, NUMERIC
from curvlang.ir.expr import (
    Apply,
    Binary,
    BinaryOperator,
    BodyStatement,
    Define,
    Expr,
    Negate,
    Number,
    Reduce,
    Ref,
    Yield,
)
from curvlang.ir.indices import children


@dataclass(frozen=True, slots=True)
class ScaledTerm:
    """A number times what is not known yet; the number alone where `alone`."""

    number: float = 1.0
    alone: bool = False


OPEN = ScaledTerm()
"""What nothing is known of."""


def check_coefficients(
    body: Sequence[BodyStatement], known: dict[str, ScaledTerm] | None = None
) -> list[Diagnostic]:
    """The innermost expressions of a body whose number is not finite, or rounds to zero.

    Args:
        body: Its statements; a tensor that one defines carries its number into those after it.
        known: Numbers of tensors of the stages before; those of this one are added.
    """
    problems: list[Diagnostic] = []
    known = {} if known is None else known
    for statement in body:
        match statement:
            case Define(targets=(target,)):
                known[target.name] = _scaled(statement.value, known, problems)
            case Define(targets=targets):
                known |= dict.fromkeys((t.name for t in targets), OPEN)
            case Yield(target=target):
                known[target.name] = _scaled(statement.value, known, problems)
            case _:
                pass
    return problems


def _scaled(expr: Expr, known: Mapping[str, ScaledTerm], problems: list[Diagnostic]) -> ScaledTerm:
    parts = [_scaled(part, known, problems) for part in children(expr)]
    if isinstance(expr, Ref):
        return known.get(expr.name, OPEN)
    try:
        found = _combined(expr, parts)
    except (ZeroDivisionError, OverflowError, ValueError):
        found = ScaledTerm(math.inf)
    if isinstance(found.number, complex) or not math.isfinite(found.number):
        problems.append(_refused(expr))
        return OPEN
    if not found.number and _multiplies(expr) and all(x.number for x in parts):
        problems.append(_rounded(expr))
        return OPEN
    return found


def _multiplies(expr: Expr) -> bool:
    """Whether numbers other than zero have a result other than zero."""
    signs = (BinaryOperator.MULTIPLY, BinaryOperator.DIVIDE, BinaryOperator.POWER)
    return isinstance(expr, Binary) and expr.operator in signs


def _combined(expr: Expr, parts: Sequence[ScaledTerm]) -> ScaledTerm:
    """The number of an expression from those of its parts."""
    match expr, parts:
        case Number(value=value), _:
            return ScaledTerm(value, alone=True)
        case Reduce(), [x]:
            return ScaledTerm(x.number)
        case Negate(), [x]:
            return ScaledTerm(-x.number, x.alone)
        case Binary(operator=BinaryOperator.MULTIPLY | BinaryOperator.DIVIDE as sign), [x, y]:
            return ScaledTerm(ARITHMETIC[sign](x.number, y.number), x.alone and y.alone)
        case Binary(operator=BinaryOperator.POWER as sign), [x, y] if y.alone:
            # A number before a base is taken to the power with it; its sign stands with the base.
            base = x.number if x.alone else abs(x.number)
            return ScaledTerm(ARITHMETIC[sign](base, y.number), x.alone)
        case Binary(operator=sign), [x, y] if x.alone and y.alone:
            return ScaledTerm(ARITHMETIC[sign](x.number, y.number), alone=True)
        case Apply(function=function), _ if parts and all(x.alone for x in parts):
            return ScaledTerm(NUMERIC[function](*(x.number for x in parts)), alone=True)
        case _:
            return OPEN


def _refused(expr: Expr) -> Diagnostic:
    return Diagnostic(
        Code.E0423,
        "a number of this formula is not finite",
        (Label(expr.span, "divided by zero, or too large to be computed with"),),
        ("take the zero out of the divisor, or give a parameter another value",),
    )


def _rounded(expr: Expr) -> Diagnostic:
    return Diagnostic(
        Code.E0346,
        "a number of this formula rounds to zero",
        (Label(expr.span, "below the smallest number above zero, 4.9e-324"),),
        ("scale by a larger number",),
    )
