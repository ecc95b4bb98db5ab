"""Formulas of an inverse on tensors of eigenvalues; reductions run over the whole spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import torch
from torch import Tensor

from curvlang.ir import expr as ir
from curvlang.ir.constants import ARITHMETIC
from curvlang.ir.functions import SPECTRUM

Values = Mapping[str, Tensor]


def value(expr: ir.Expr, at: Values, whole: Values) -> Tensor:
    """A formula's value.

    Args:
        expr: The formula, checked.
        at: Every name at the eigenvalues asked for.
        whole: Every name over the whole spectrum, which `mean(x)`, `max(x)`, `min(x)` reduce.
    """
    go = lambda x: value(x, at, whole)  # noqa: E731
    match expr:
        case ir.Number(value=number):
            return next(iter(at.values())).new_tensor(number)
        case ir.Ref(name=name):
            return at[name]
        case ir.Negate(operand=operand):
            return -go(operand)
        case ir.Binary(
            operator=ir.BinaryOperator.SUBTRACT,
            left=ir.Number(value=1.0),
            right=ir.Apply(function="exp", arguments=(exponent,)),
        ):
            return -torch.expm1(go(exponent))
        case ir.Binary(
            operator=ir.BinaryOperator.SUBTRACT,
            left=ir.Apply(function="exp", arguments=(exponent,)),
            right=ir.Number(value=1.0),
        ):
            return torch.expm1(go(exponent))
        case ir.Binary(operator=operator, left=left, right=right):
            return ARITHMETIC[operator](go(left), go(right))
        case ir.Apply(function=function, arguments=arguments):
            return _apply(function, [go(x) for x in arguments])
        case ir.Call(function=function, arguments=(argument,)) if function in SPECTRUM:
            return _reduced(function, value(argument, whole, whole)).to(go(ir.Number(0.0)))
        case ir.Call(function=function, arguments=arguments):
            return _condition(function, [go(x) for x in arguments])
        case ir.Delta() | ir.Size() | ir.Reduce():
            raise AssertionError("an inverse is an elementwise expression")
        case _:
            assert_never(expr)


def _apply(function: str, arguments: list[Tensor]) -> Tensor:
    match function, arguments:
        case "max", [x, y]:
            return torch.maximum(x, y)
        case "min", [x, y]:
            return torch.minimum(x, y)
        case _:
            elementwise = {"sqrt": torch.sqrt, "exp": torch.exp, "log": torch.log, "abs": torch.abs}
            return elementwise[function](arguments[0])


def _reduced(function: str, x: Tensor) -> Tensor:
    match function:
        case "mean":
            return x.mean()
        case "max":
            return x.max()
        case _:
            return x.min()


def _condition(function: str, arguments: list[Tensor]) -> Tensor:
    match function, arguments:
        case "where", [condition, yes, no]:
            return torch.where(condition > 0, yes, no)
        case "less", [x, y]:
            return (x < y).to(x.dtype)
        case "less_equal", [x, y]:
            return (x <= y).to(x.dtype)
        case _:
            raise AssertionError(f"`{function}` has no meaning in an inverse")
