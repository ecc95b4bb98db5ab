"""Arithmetic of coefficients: what cannot be computed with is an error, never an infinity or a zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import isfinite

from curvlang.ir.constants import SMALLEST


class CoefficientError(ArithmeticError):
    """A coefficient that is not finite, or that is zero by rounding; the text says which."""


class RoundingError(CoefficientError):
    """A coefficient that is zero by rounding: as a term beside others it changes nothing."""


def times(left: float, right: float) -> float:
    """The product.

    >>> times(1e200, 1e200)
    Traceback (most recent call last):
    curvlang.compiler.algebra.coefficient.CoefficientError: is not finite
    """
    found = finite(left * right)
    if abs(found) < SMALLEST and left and right:
        raise RoundingError("rounds to zero")
    return found


def raised(base: float, exponent: float) -> float:
    """The power."""
    found = evaluated(pow, base, exponent)
    if abs(found) < SMALLEST and base:
        raise RoundingError("rounds to zero")
    return found


def evaluated(function: Callable[..., float], *numbers: float) -> float:
    """A function of numbers."""
    try:
        found = finite(function(*numbers))
    except (ZeroDivisionError, OverflowError, ValueError):
        raise CoefficientError("is not finite") from None
    if function is math.exp and found < SMALLEST:
        raise RoundingError("rounds to zero")
    return found


def finite(value: float) -> float:
    """The number itself."""
    if isinstance(value, complex) or not isfinite(value):
        raise CoefficientError("is not finite")
    return value
