"""Expressions of numbers alone: exponents, seeds, ranks."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from curvlang.ir.expr import Binary, BinaryOperator, Expr, Negate, Number

SMALLEST = sys.float_info.min
"""The smallest number above zero that has all its digits, 2.2e-308: products below it are zero by rounding."""

ARITHMETIC: Mapping[BinaryOperator, Callable[[Any, Any], Any]] = {
    BinaryOperator.ADD: operator.add,
    BinaryOperator.SUBTRACT: operator.sub,
    BinaryOperator.MULTIPLY: operator.mul,
    BinaryOperator.DIVIDE: operator.truediv,
    BinaryOperator.POWER: operator.pow,
}
"""The elementwise operators, on whatever knows Python's own: numbers and tensors."""

NUMERIC: Mapping[str, Callable[..., float]] = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "abs": abs,
    "max": max,
    "min": min,
}
"""The elementwise functions, on numbers."""


def constant(expr: Expr) -> float:
    """The value of an expression of numbers alone.

    >>> constant(Binary(BinaryOperator.SUBTRACT, Number(1.0), Number(0.5)))
    0.5

    Raises:
        ValueError: It has none that is a finite real number, or is not made of numbers alone.
    """
    match expr:
        case Number(value=value):
            return value
        case Negate(operand=operand):
            return -constant(operand)
        case Binary(operator=sign, left=left, right=right):
            try:
                found = ARITHMETIC[sign](constant(left), constant(right))
            except (ZeroDivisionError, OverflowError) as error:
                raise ValueError("no finite value") from error
            if isinstance(found, complex) or not isfinite(found):
                raise ValueError("no finite real value")
            return float(found)
        case _:
            raise ValueError("not a constant")
