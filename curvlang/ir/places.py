"""Comparisons of indices and indices split in parts: tensors of ones and zeros, known by the places of entries.

`where(|i - i'| <= 2)` and `where(o == (h,d))` are calls whose names no person can write. A comparison holds its
coefficients, one for each of its indices, and a bound; a split holds the index and its parts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from curvlang.ir import expr as ir

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PREFIX = "where "
SPLIT = _PREFIX + "split"
"""`where(o == (h,d))`: one where the place of `o` is that of `h` times the length of `d`, plus that of `d`."""
SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_ABSOLUTE = "|"
JOINED = (ir.Number(1.0),)
"""The arguments of a split that a left side in parts has made, which is checked for every part."""
UNDECLARED = "?"
"""The letter of an index whose parts are those of no `split`."""


def is_places(expr: ir.Expr) -> bool:
    """Whether an expression is a comparison of indices or a split."""
    return isinstance(expr, ir.Call) and expr.function.startswith(_PREFIX)


def is_split(expr: object) -> bool:
    """Whether an expression says which entries of an index those of its parts are."""
    return isinstance(expr, ir.Call) and expr.function == SPLIT


def comparison(sign: str, *, absolute: bool) -> str:
    """The name of the call: `Σ coefficient · place` on the left, a bound on the right."""
    return _PREFIX + (_ABSOLUTE if absolute else "") + sign


def is_absolute(call: ir.Call) -> bool:
    """Whether the left side of a comparison is an absolute value."""
    return call.function.removeprefix(_PREFIX).startswith(_ABSOLUTE)


def sign_of(call: ir.Call) -> str:
    """The sign of a comparison."""
    return call.function.removeprefix(_PREFIX).removeprefix(_ABSOLUTE)


def entries(function: str, shape: Sequence[int], numbers: Sequence[float]) -> NDArray[np.float64]:
    """Ones and zeros.

    Args:
        function: The name of the call.
        shape: Lengths of its indices.
        numbers: Values of its arguments.
    """
    import numpy as np  # the language itself does without

    if function == SPLIT:
        first, *parts = shape
        if prod(parts) != first:
            raise AssertionError("the parts of an index have as many entries together")
        return np.eye(first).reshape(first, *parts)
    *coefficients, bound = numbers
    total = np.zeros(tuple(shape))
    for axis, (length, coefficient) in enumerate(zip(shape, coefficients, strict=True)):
        own = [1] * len(shape)
        own[axis] = length
        total = total + coefficient * np.arange(length).reshape(own)
    plain = function.removeprefix(_PREFIX)
    if plain.startswith(_ABSOLUTE):
        total, plain = np.abs(total), plain.removeprefix(_ABSOLUTE)
    return np.asarray(SIGNS[plain](total, bound), dtype=np.float64)


def condition(
    call: ir.Call, index: Callable[[ir.Index], str], number: Callable[[ir.Expr], str]
) -> str:
    """A comparison, or a split, as it is written: `|i - i'| <= 2`, `o == (h,d)`.

    Args:
        call: It.
        index: How an index is written.
        number: How a number is.
    """
    if is_split(call):
        first, *parts = map(index, call.indices)
        return f"{first} == ({','.join(parts)})"
    *coefficients, bound = call.arguments
    text = ""
    for coefficient, place in zip(coefficients, call.indices, strict=True):
        negative = isinstance(coefficient, ir.Number) and coefficient.value < 0
        size = (
            ir.Number(abs(coefficient.value)) if isinstance(coefficient, ir.Number) else coefficient
        )
        shown = index(place) if size == ir.Number(1.0) else f"{number(size)} * {index(place)}"
        text += (
            (" - " if negative else " + ") + shown if text else ("-" if negative else "") + shown
        )
    bars = "|" if is_absolute(call) else ""
    return f"{bars}{text}{bars} {sign_of(call)} {number(bound)}"


def joined(bound: tuple[ir.Index, ...], splits: Sequence[ir.Call], value: ir.Expr) -> ir.Expr:
    """A right side over the parts of indices as one over the indices.

    It goes below means over examples, to the terms of sums, so that their structure is still seen.

    Args:
        bound: All parts.
        splits: Which index has which of them.
        value: The right side.
    """
    go = lambda x: joined(bound, splits, x)  # noqa: E731
    match value:
        case ir.Reduce(indices=own, body=body) if any(x.space == "n" for x in own):
            return ir.Reduce(value.kind, own, go(body), value.span)
        case ir.Binary(
            operator=ir.BinaryOperator.ADD | ir.BinaryOperator.SUBTRACT, left=left, right=right
        ):
            return ir.Binary(value.operator, go(left), go(right), value.span)
        case ir.Negate(operand=operand):
            return ir.Negate(go(operand), value.span)
        case ir.Binary(operator=ir.BinaryOperator.MULTIPLY, left=left, right=right) if _scalar(
            left
        ):
            return ir.Binary(value.operator, left, go(right), value.span)
        case ir.Binary(
            operator=ir.BinaryOperator.MULTIPLY | ir.BinaryOperator.DIVIDE, left=left, right=right
        ) if _scalar(right):
            return ir.Binary(value.operator, go(left), right, value.span)
        case _:
            front: ir.Expr = splits[0]
            for split in splits[1:]:
                front = ir.Binary(ir.BinaryOperator.MULTIPLY, front, split, value.span)
            body = ir.Binary(ir.BinaryOperator.MULTIPLY, front, value, value.span)
            return ir.Reduce(ir.ReductionKind.SUM, bound, body, value.span)


def _scalar(expr: ir.Expr) -> bool:
    match expr:
        case ir.Number():
            return True
        case ir.Ref(indices=indices):
            return not indices
        case _:
            return False


def inner_of(value: ir.Expr) -> tuple[tuple[ir.Index, ...], ir.Expr] | None:
    """The parts, and a term, of a right side that `joined` has made: the first there is; None for any other."""
    match value:
        case ir.Reduce(indices=own, body=ir.Binary(left=front, right=inner)) if _splits(front):
            return own, inner
        case ir.Reduce(body=body) | ir.Negate(operand=body):
            return inner_of(body)
        case ir.Binary(left=left, right=right):
            return inner_of(left) or inner_of(right)
        case _:
            return None


def _splits(front: ir.Expr) -> bool:
    match front:
        case ir.Binary(left=left, right=right):
            return _splits(left) and _splits(right)
        case _:
            return isinstance(front, ir.Call) and is_split(front) and front.arguments == JOINED
