"""Numbers that a body needs before any data is read: exponents, powers, seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.ir.constants import constant
from curvlang.ir.expr import Binary, BinaryOperator, BodyStatement, Call, Define, Expr, Ref, Yield
from curvlang.ir.functions import FUNCTIONS, MAKERS
from curvlang.ir.indices import walk


def check_numbers(body: Sequence[BodyStatement]) -> list[Diagnostic]:
    """What is wrong with the constants of a body; parameters that are not known yet are let be."""
    return [
        problem
        for statement in body
        if isinstance(statement, Define | Yield)
        for node in walk(statement.value)
        for problem in _node(node)
    ]


def _node(node: Expr) -> Iterator[Diagnostic]:
    match node:
        case Binary(operator=BinaryOperator.POWER, right=right) if _broken(right):
            yield _wrong(Code.E0318, "an exponent is a finite real number", right)
        case Call(function=function, arguments=(_, *numbers)) if function in FUNCTIONS:
            for number in filter(_broken, numbers):
                yield _wrong(Code.E0309, f"`{function}` takes a finite real number here", number)
        case Call(function=function, arguments=(seed,)) if function in MAKERS:
            if _broken(seed) or (_known(seed) and not _whole(constant(seed))):
                what = f"the seed of `{function}` is a whole number, 0 or more"
                yield _wrong(Code.E0309, what, seed)
        case _:
            pass


def _known(expr: Expr) -> bool:
    return not any(isinstance(x, Ref) for x in walk(expr))


def _whole(value: float) -> bool:
    return value >= 0 and value.is_integer()


def _broken(expr: Expr) -> bool:
    """Made of numbers alone, and yet without a value."""
    if not _known(expr):
        return False
    try:
        constant(expr)
    except ValueError:
        return True
    return False


def _wrong(code: Code, headline: str, expr: Expr) -> Diagnostic:
    return Diagnostic(code, headline, (Label(expr.span, "not such a number"),))
