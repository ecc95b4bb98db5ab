"""Generated code in other precisions: products of narrow operands, decompositions of narrower matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from curvlang.ir.functions import FUNCTIONS

ROWS = 2048
"""Rows whose products are rounded to the operands' precision at once: their sums are then added up in float32,
so that rounding averages out."""
EXAMPLES = "n"
"""The letter of examples in a product."""
ROUNDED = 2**-6
"""Share of the largest entry by which two entries of a symmetric matrix may be rounded apart."""


def narrow_products(scope: Mapping[str, Any], operands: torch.dtype) -> dict[str, Any]:
    """What generated code calls, with operands of products in `operands` and results as wide as before.

    Args:
        scope: The names that the code calls.
        operands: Half precision, as the leaves of a model in it have.
    """
    inner_gram, inner_rotate = scope["gram"], scope["rotate"]

    def gram(x: Any, groups: int = 1) -> Tensor:
        found: Tensor
        if not isinstance(x, Tensor):
            found = inner_gram(x, groups)
            return found
        less = x.to(operands)
        axis = max(range(x.ndim - 1), key=x.stride)
        each = max(1, ROWS * x.shape[axis] * x.shape[-1] // max(1, x.numel()))
        parts = less.split(each, axis)
        found = inner_gram(parts[0], groups).to(x.dtype)
        for part in parts[1:]:
            found += inner_gram(part, groups)
        # Several groups of columns are written to both sides of the diagonal.
        return found if groups > 1 else (found + found.mT) / 2

    def rotate(x: Any, matrix: Tensor) -> Tensor:
        found: Tensor
        if not isinstance(x, Tensor):
            found = inner_rotate(x, matrix)
            return found
        found = inner_rotate(x.to(operands), matrix.to(operands)).to(x.dtype)
        return found

    def einsum(equation: str, *given: Any) -> Tensor:
        if len(given) != 2 or not all(isinstance(x, Tensor) for x in given):
            return torch.einsum(equation, *given)
        wide = torch.promote_types(given[0].dtype, given[1].dtype)
        found = torch.einsum(equation, *(x.to(operands) for x in given)).to(wide)
        # Of an example by itself there are gradients, which are not symmetric.
        return found if EXAMPLES in equation.partition("->")[2] else _symmetric(found)

    names = SimpleNamespace(**vars(torch) | {"einsum": einsum})
    return {**scope, "torch": names, "gram": gram, "rotate": rotate}


def _symmetric(x: Tensor) -> Tensor:
    """The symmetric part of a matrix, or of each of a stack, that is symmetric but for rounding; any other as it is.

    Entries (i, j) and (j, i) are rounded apart, and what is decomposed has to be symmetric.
    """
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        return x
    gap, size = (x - x.mT).abs().amax(), x.abs().amax()
    return torch.where(gap <= ROUNDED * size, (x + x.mT) / 2, x)


def symmetric_entries(x: Tensor, count: int) -> Tensor:
    """All entries of some blocks, [count · side · side] in any axes, symmetric but for rounding."""
    side = isqrt(x.numel() // count)
    return _symmetric(x.reshape(count, side, side)).reshape(x.shape)


def narrow_decompositions(scope: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """What generated code calls, with decompositions in `dtype` and their results as wide as before."""
    found = dict(scope)
    for name in FUNCTIONS:
        found[name] = _decomposed(scope[name], dtype)
    return found


def _decomposed(function: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def call(matrix: Tensor, *numbers: float) -> Any:
        result = function(matrix.to(dtype), *numbers)
        if isinstance(result, tuple):
            return tuple(x.to(matrix.dtype) for x in result)
        return result.to(matrix.dtype)

    return call
