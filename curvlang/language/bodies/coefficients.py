"""Numbers of a formula that cannot be computed with: divisions by zero, overflow, products that round to 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.ir import expr as ir
from curvlang.ir.constants import ARITHMETIC, NUMERIC, SMALLEST
from curvlang.ir.indices import children


@dataclass(frozen=True, slots=True)
class ScaledTerm:
    """A number times a tensor of the model; the number alone where `alone`.

    Attributes:
        number: The number.
        alone: Whether nothing stands beside it.
        known: Whether the number is all the scale there is: no function of data, no sum of tensors.
        rounded: Where numbers other than zero became this zero.
        written: The numbers that are written here, multiplied out, whatever data stands between them.
        several: Whether it is a sum, of which `written` is the largest term's.
    """

    number: float = 1.0
    alone: bool = False
    known: bool = True
    rounded: tuple[Diagnostic, ...] = ()
    written: float = 1.0
    several: bool = False

    @property
    def zero(self) -> bool:
        """Whether it is certainly zero."""
        return self.known and not self.number


LEAF = ScaledTerm()
"""A tensor of the model."""
OPEN = ScaledTerm(known=False)
"""What nothing is known of: its scale may cancel any number."""


def check_coefficients(
    body: Sequence[ir.BodyStatement], known: dict[str, ScaledTerm] | None = None
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
            case ir.Define(targets=(target,)):
                known[target.name] = _whole(statement.value, known, problems)
            case ir.Define(targets=targets):
                known |= dict.fromkeys((t.name for t in targets), OPEN)
            case ir.Yield(target=target):
                known[target.name] = _whole(statement.value, known, problems)
            case _:
                pass
    return problems


def _whole(
    expr: ir.Expr, known: Mapping[str, ScaledTerm], problems: list[Diagnostic]
) -> ScaledTerm:
    """The number of a right side, which may not round to zero as a whole."""
    found = _scaled(expr, known, problems)
    problems += found.rounded
    if found.rounded or not found.known:
        return OPEN
    return replace(found, written=found.number if found.alone else 1.0, several=False)


def _scaled(
    expr: ir.Expr, known: Mapping[str, ScaledTerm], problems: list[Diagnostic]
) -> ScaledTerm:
    parts = [_scaled(part, known, problems) for part in children(expr)]
    if isinstance(expr, ir.Ref):
        return known.get(expr.name, LEAF)
    rounded = tuple(x for part in parts for x in part.rounded)
    try:
        found = _multiplied_out(expr, parts, _combined(expr, parts))
    except (ZeroDivisionError, OverflowError, ValueError):
        found = ScaledTerm(math.inf)
    if not (_finite(found.number) and _finite(found.written)):
        problems += rounded or (_refused(expr),)
        return OPEN
    found = _flushed(expr, parts, found)
    if isinstance(expr, ir.Call):
        problems += rounded
        return found
    if not found.zero:
        # What is added to a number that rounds to zero stays.
        return found
    if not rounded and _multiplies(expr) and not any(x.zero for x in parts):
        rounded = (_rounded(expr),)
    return replace(found, rounded=rounded)


def _multiplies(expr: ir.Expr) -> bool:
    """Whether numbers other than zero have a result other than zero."""
    signs = (ir.BinaryOperator.MULTIPLY, ir.BinaryOperator.DIVIDE, ir.BinaryOperator.POWER)
    exponential = isinstance(expr, ir.Apply) and expr.function == "exp"
    return exponential or (isinstance(expr, ir.Binary) and expr.operator in signs)


def _finite(number: object) -> bool:
    return not isinstance(number, complex) and math.isfinite(number)  # type: ignore[arg-type]


def _flushed(expr: ir.Expr, parts: Sequence[ScaledTerm], found: ScaledTerm) -> ScaledTerm:
    """A product below the smallest number that has all its digits is zero by rounding."""
    if not _multiplies(expr):
        return found
    if found.known and abs(found.number) < SMALLEST:
        return replace(found, number=0.0, written=0.0)
    if abs(found.written) < SMALLEST and all(x.written for x in parts):
        return ScaledTerm(0.0)
    return found


def _multiplied_out(expr: ir.Expr, parts: Sequence[ScaledTerm], found: ScaledTerm) -> ScaledTerm:
    """The expression with its written numbers as the compiler multiplies them out.

    A number goes to every term of a sum; a sum beside a tensor stays together, its numbers inside.
    """
    if found.alone:
        return replace(found, written=found.number)
    match expr, parts:
        case ((ir.Negate() | ir.Reduce()), [x]):
            return replace(found, written=x.written, several=x.several)
        case ir.Binary(operator=ir.BinaryOperator.MULTIPLY), [x, y]:
            left = 1.0 if x.several and not y.alone else x.written
            right = 1.0 if y.several and not x.alone else y.written
            several = (x.several and y.alone) or (y.several and x.alone)
            return replace(found, written=left * right, several=several)
        case ir.Binary(operator=ir.BinaryOperator.DIVIDE), [x, y] if not y.zero:
            left = 1.0 if x.several and not y.alone else x.written
            right = 1.0 if y.several or not y.written else y.written
            return replace(found, written=left / right, several=x.several and y.alone)
        case ir.Binary(operator=ir.BinaryOperator.POWER), [x, y] if (
            y.alone and not x.several and float(y.number).is_integer() and x.written
        ):
            return replace(found, written=ARITHMETIC[ir.BinaryOperator.POWER](x.written, y.number))
        case ir.Binary(operator=ir.BinaryOperator.ADD | ir.BinaryOperator.SUBTRACT), [x, y]:
            return replace(found, written=max(abs(x.written), abs(y.written)), several=True)
        case _:
            return found


def _combined(expr: ir.Expr, parts: Sequence[ScaledTerm]) -> ScaledTerm:
    """The number of an expression from those of its parts."""
    alone = all(x.alone for x in parts)
    match expr, parts:
        case ir.Number(value=value), _:
            return ScaledTerm(value, alone=True)
        case ir.Delta() | ir.Size(), _:
            return LEAF
        case ir.Reduce(), [x]:
            return ScaledTerm(x.number, known=x.known)
        case ir.Negate(), [x]:
            return ScaledTerm(-x.number, x.alone, x.known)
        case ir.Binary(operator=ir.BinaryOperator.MULTIPLY), [x, y]:
            if x.zero or y.zero:
                return ScaledTerm(0.0, alone)
            return ScaledTerm(x.number * y.number, alone) if x.known and y.known else OPEN
        case ir.Binary(operator=ir.BinaryOperator.DIVIDE), [x, y]:
            if x.zero or y.zero or (x.known and y.alone):
                return ScaledTerm(x.number / y.number, alone)
            # The scale of a tensor may leave with a divisor of data, however either is written.
            return OPEN
        case ir.Binary(operator=ir.BinaryOperator.POWER as sign), [x, y] if x.known and y.alone:
            if not x.alone and x.number and y.number < 0:
                return OPEN
            # A number before a base is taken to the power with it; its sign stands with the base.
            base = x.number if x.alone else abs(x.number)
            return ScaledTerm(ARITHMETIC[sign](base, y.number), x.alone)
        case ir.Binary(operator=ir.BinaryOperator.ADD | ir.BinaryOperator.SUBTRACT as sign), [
            x,
            y,
        ] if _certain(parts):
            return ScaledTerm(ARITHMETIC[sign](x.number, y.number), alone)
        case ir.Apply(function=function), _ if _certain(parts):
            return ScaledTerm(NUMERIC[function](*(x.number for x in parts)), alone)
        case _:
            return OPEN


def _certain(parts: Sequence[ScaledTerm]) -> bool:
    """Whether every part is a number, or a tensor of zeros."""
    return all(x.alone or x.zero for x in parts)


def _refused(expr: ir.Expr) -> Diagnostic:
    return Diagnostic(
        Code.E0423,
        "a number of this formula is not finite",
        (Label(expr.span, "divided by zero, or too large to be computed with"),),
        ("take the zero out of the divisor, or give a parameter another value",),
    )


def _rounded(expr: ir.Expr) -> Diagnostic:
    return Diagnostic(
        Code.E0346,
        "a number of this formula rounds to zero",
        (Label(expr.span, "below the smallest number that has all its digits, 2.2e-308"),),
        ("scale by a larger number",),
    )
