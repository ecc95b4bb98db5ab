"""Formulas with a number for each example, on the gradients of some examples at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from curvlang.ir import expr as ir
from curvlang.ir.constants import ARITHMETIC
from curvlang.ir.indices import free_indices

Named = tuple[Tensor, tuple[ir.Index, ...]]
"""A tensor with an index for each axis."""
EXAMPLES = "size[n]"
"""The name of their number among the numbers."""
ELEMENTWISE: Mapping[str, Callable[..., Tensor]] = {
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "abs": torch.abs,
    "max": torch.maximum,
    "min": torch.minimum,
}


def per_example(expr: ir.Expr, v: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
    """The value of a formula whose free index is `n`, [B], or `p`, [P]; of one without a free index, a number.

    Args:
        expr: The formula.
        v: Gradients of the examples, [B, P].
        numbers: Parameters and statistics by name.
    """
    return _value(expr, v, numbers)[0]


def reduced(expr: ir.Reduce, v: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
    """The sum over these examples of what a statistic reduces: a number, or a row over the parameters."""
    inner = tuple(x for x in expr.indices if x.space != "n")
    values, axes = _value(replace(expr, indices=inner) if inner else expr.body, v, numbers)
    own = [k for k, x in enumerate(axes) if x.space == "n"]
    return values.sum(own) if own else values * len(v)


def _value(expr: ir.Expr, v: Tensor, numbers: Mapping[str, Tensor]) -> Named:
    go = lambda x: _value(x, v, numbers)  # noqa: E731
    match expr:
        case ir.Number(value=value):
            return v.new_tensor(value), ()
        case ir.Size(index=index):
            count = numbers[EXAMPLES].to(v) if index.space == "n" else v.new_tensor(v.shape[1])
            return count, ()
        case ir.Ref(name="v", indices=indices):
            return v, indices
        case ir.Ref(name=name, indices=indices):
            return numbers[name].to(v), indices
        case ir.Negate(operand=operand):
            found, axes = go(operand)
            return -found, axes
        case ir.Binary(operator=operator, left=left, right=right):
            (x, y), axes = _aligned([go(left), go(right)])
            return ARITHMETIC[operator](x, y), axes
        case ir.Apply(function=function, arguments=arguments):
            given, axes = _aligned([go(x) for x in arguments])
            return ELEMENTWISE[function](*given), axes
        case ir.Reduce():
            return _reduction(expr, v, numbers)
        case ir.Delta() | ir.Call():
            raise AssertionError("a weight has no matrix in it")
        case _:
            assert_never(expr)


def _reduction(expr: ir.Reduce, v: Tensor, numbers: Mapping[str, Tensor]) -> Named:
    """A sum or mean; numbers stand outside it, and squared lengths are added up without the squares."""
    match expr.body:
        case ir.Binary(
            operator=ir.BinaryOperator.DIVIDE | ir.BinaryOperator.MULTIPLY as operator,
            left=left,
            right=right,
        ) if not free_indices(right) and free_indices(left):
            found, axes = _reduction(replace(expr, body=left), v, numbers)
            return ARITHMETIC[operator](found, _value(right, v, numbers)[0]), axes
        case ir.Binary(
            operator=ir.BinaryOperator.POWER,
            left=ir.Ref(name="v", indices=(n, p)),
            right=ir.Number(value=2.0),
        ) if expr.indices == (p,) and expr.kind is ir.ReductionKind.SUM:
            return torch.linalg.vecdot(v, v), (n,)
        case body:
            return _reduced(*_value(body, v, numbers), expr.kind, expr.indices)


def _reduced(
    values: Tensor,
    axes: tuple[ir.Index, ...],
    kind: ir.ReductionKind,
    bound: tuple[ir.Index, ...] | list[ir.Index],
) -> Named:
    places = [axes.index(x) for x in bound if x in axes]
    left = tuple(x for x in axes if x not in bound)
    if not places:
        return values, left
    mean = kind is ir.ReductionKind.MEAN
    return (values.mean(places) if mean else values.sum(places)), left


def _aligned(given: list[Named]) -> tuple[list[Tensor], tuple[ir.Index, ...]]:
    """Tensors over all their indices, in one order."""
    axes = tuple(dict.fromkeys(x for _, own in given for x in own))
    found = []
    for values, own in given:
        order = [own.index(x) for x in axes if x in own]
        shape = [values.shape[own.index(x)] if x in own else 1 for x in axes]
        found.append(values.permute(order).reshape(shape))
    return found, axes
