"""Tensor functions of whole tensors as lines of torch code.

In: a definition `Q[o,i,k] = orthonormal(Y[o,i | k])` and the lengths of its spaces. Out: the lines
that read the tensor as a matrix, apply the function, keep the part that was asked for, and give
the row and column groups their own axes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from curvlang.compiler.codegen.emit import Line, call_code
from curvlang.compiler.derive.lengths import matrix_groups
from curvlang.ir.expr import Call, Define, Index, Ref, Target
from curvlang.ir.functions import FUNCTIONS


def function_lines(
    define: Define, known: Mapping[str, tuple[Index, ...]], sizes: Mapping[str, int]
) -> list[tuple[str, Line]]:
    """Source lines of one definition, each with its cost."""
    call = define.value
    assert isinstance(call, Call)
    tensor = call.arguments[0]
    assert isinstance(tensor, Ref)
    rows, columns = matrix_groups(call, known)
    height, width = (prod(sizes[x.space] for x in group) for group in (rows, columns))
    argument = _matrix(tensor, known[tensor.name], (rows, columns), (height, width))
    results = FUNCTIONS[call.function].results
    # Results that nobody names are dropped.
    rest = ["*_"] if len(define.targets) < len(results) else []
    left = ", ".join([*(t.name for t in define.targets), *rest])
    comma = "," if len(results) == 1 else ""
    code = call_code(call, argument)
    first = define.targets[0]
    flops = int(FUNCTIONS[call.function].flops(height, width))
    found = [(f"{left}{comma} = {code}", _line(first, code, sizes, flops))]
    for target, pattern in zip(define.targets, results, strict=False):
        if target.name == "_":
            continue
        value = _kept(target, pattern, call, min(height, width), sizes)
        if len(target.indices) != len(pattern):
            shape = ", ".join(str(sizes[x.space]) for x in target.indices)
            value = f"{value}.reshape({shape})"
        if value != target.name:
            found.append((f"{target.name} = {value}", _line(target, value, sizes, 0)))
    return found


def _line(target: Target, code: str, sizes: Mapping[str, int], flops: int) -> Line:
    elements = prod(sizes[x.space] for x in target.indices)
    return Line(target.name, code, target.indices, elements, flops)


def _matrix(
    tensor: Ref,
    own: tuple[Index, ...],
    groups: tuple[tuple[Index, ...], tuple[Index, ...]],
    shape: tuple[int, int],
) -> str:
    """The tensor as a matrix: its axes in the order of the groups, then one axis for each group."""
    order = (*groups[0], *groups[1])
    name = tensor.name
    if order != own:
        name = f"{name}.permute({tuple(own.index(x) for x in order)})"
    if len(order) == 2:
        return name
    return f"{name}.reshape({shape[0]}, {shape[1]})"


def _kept(target: Target, pattern: str, call: Call, made: int, sizes: Mapping[str, int]) -> str:
    """The part of a result with the largest values, where its space was declared shorter."""
    length = sizes[target.indices[-1].space] if pattern.endswith("k") else made
    if length == made:
        return target.name
    part = f"-{length}:" if FUNCTIONS[call.function].largest == "last" else f":{length}"
    return f"{target.name}[..., {part}].contiguous()"
