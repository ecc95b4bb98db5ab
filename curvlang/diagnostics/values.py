"""Values given in Python that must be numbers: refused by name where they are something else."""

from __future__ import annotations

import math
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal


def finite_number(value: Any, name: str) -> float:
    """The value as a float: Python's and numpy's numbers, and tensors that hold one.

    Raises:
        SpecError: E0563 for a text, a truth value, several numbers, or one that is not finite.
    """
    found = real_number(value, name)
    if not math.isfinite(found):
        raise another_type(name, value, "a finite number", f"`{name}=0.1`")
    return found


def nonzero_number(value: Any, name: str) -> float:
    """As `finite_number`, but not 0.

    Raises:
        SpecError: E0563.
    """
    found = finite_number(value, name)
    if found == 0:
        raise another_type(name, value, "a number other than 0", f"`{name}=2`")
    return found


def positive_number(value: Any, name: str) -> float:
    """As `finite_number`, above 0.

    Raises:
        SpecError: E0563.
    """
    found = finite_number(value, name)
    if found <= 0:
        raise another_type(name, value, "a positive number", f"`{name}=1.0`")
    return found


def real_number(value: Any, name: str, example: str = "0.1") -> float:
    """As `finite_number`, infinite and NaN included.

    Raises:
        SpecError: E0563.
    """
    several = tuple(getattr(value, "shape", ())) not in ((), (1,))
    if isinstance(value, str | bytes | bool) or several or not hasattr(value, "__float__"):
        raise another_type(name, value, "a number", f"`{name}={example}`")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise another_type(name, value, "a number", f"`{name}={example}`") from error


def whole_number(value: Any, name: str, example: str = "1") -> int:
    """The value as an integer, where it is one.

    Raises:
        SpecError: E0563.
    """
    found = real_number(value, name, example)
    if found != found or found in (math.inf, -math.inf) or found != int(found):
        raise another_type(name, value, "an integer", f"`{name}={example}`")
    return int(found)


def another_type(name: str, value: object, wanted: str, example: str) -> SpecError:
    """The refusal of an argument that is something else than what it stands for."""
    told = f", {value!r}," if isinstance(value, str | bytes | int | float) else ","
    kind = f"a `{type(value).__name__}`{told}"
    return refusal(Code.E0563, f"`{name}` is {kind} where {wanted} is expected", f"give {example}")
