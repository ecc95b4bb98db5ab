"""Tensor functions of whole tensors as instructions.

In: a definition `Q[o,i,k] = orthonormal(Y[o,i | k])` and the lengths of its spaces. Out: instructions
that read the tensor as a matrix, apply the function, keep the part that was asked for, and give
the row and column groups their own axes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from curvlang.compiler.codegen.instructions import Call, Instruction, Selection
from curvlang.ir import expr
from curvlang.ir.constants import constant
from curvlang.ir.expr import Define, Index, Target
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.indices import matrix_groups, matrix_shape

Axes = Mapping[str, tuple[Index, ...]]
"""Indices of tensors by name, in the order they are held in."""


def function_call(call: expr.Call, known: Axes, sizes: Mapping[str, int]) -> Call:
    """A tensor function of a whole tensor, which is read as a matrix."""
    tensor, *numbers = call.arguments
    assert isinstance(tensor, expr.Ref)
    order, shape = _matrix(call, known, sizes)
    return Call(call.function, tensor.name, order, shape, tuple(map(constant, numbers)))


def _matrix(
    call: expr.Call, known: Axes, sizes: Mapping[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of the axes, and rows and columns; empty where they are as they are held."""
    if FUNCTIONS[call.function].argument == "*":
        return (), ()
    (tensor, *_) = call.arguments
    assert isinstance(tensor, expr.Ref)
    rows, columns = matrix_groups(call, known)
    order, own = (*rows, *columns), known[tensor.name]
    moved = () if order == own else tuple(map(own.index, order))
    return moved, () if len(order) == 2 else matrix_shape(call, known, sizes)


def function_lines(define: Define, known: Axes, sizes: Mapping[str, int]) -> list[Instruction]:
    """The instructions of one definition, each with its cost."""
    value = define.value
    assert isinstance(value, expr.Call)
    function = FUNCTIONS[value.function]
    rows, columns = matrix_shape(value, known, sizes)
    first = define.targets[0]
    found = [
        Instruction(
            tuple(t.name for t in define.targets),
            function_call(value, known, sizes),
            first.indices,
            _elements(first, sizes),
            int(function.flops(rows, columns)),
        )
    ]
    for target, pattern in zip(define.targets, function.results, strict=False):
        part = _part(target, pattern, value.function, min(rows, columns), sizes)
        if target.name != "_" and part is not None:
            elements = _elements(target, sizes)
            found.append(Instruction((target.name,), part, target.indices, elements))
    return found


def _elements(target: Target, sizes: Mapping[str, int]) -> int:
    return prod(sizes[x.space] for x in target.indices)


def _part(
    target: Target, pattern: str, function: str, made: int, sizes: Mapping[str, int]
) -> Selection | None:
    """What is kept of a result, where its space was declared shorter, in its own axes."""
    length = sizes[target.indices[-1].space] if pattern.endswith("k") else made
    count = None if length == made else length
    axes = tuple(sizes[x.space] for x in target.indices)
    shape = () if len(axes) == len(pattern) else axes
    if count is None and not shape:
        return None
    return Selection(target.name, count, FUNCTIONS[function].largest == "last", shape)
