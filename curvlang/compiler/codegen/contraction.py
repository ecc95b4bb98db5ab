"""Contractions: a product of tensors, summed, as products of two in a planned order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import opt_einsum

from curvlang.compiler.codegen.collector import Collector
from curvlang.compiler.codegen.instructions import (
    AxisSum,
    Einsum,
    Operand,
    Tensor,
    View,
    lettering,
)
from curvlang.compiler.codegen.lowering import product
from curvlang.ir.expr import Index

_OPTIMAL_UP_TO = 6
"""Operands for which the best order is searched exhaustively (720 orders); greedy above."""


def contract(
    code: Collector,
    tensors: Sequence[Tensor],
    out: tuple[Index, ...],
    *,
    ordered: bool = True,
    limit: int | None = None,
) -> Tensor:
    """The product of tensors, summed over the indices that the result lacks.

    Args:
        code: Where the instructions go.
        tensors: One or more.
        out: Indices of the result.
        ordered: Whether its axes are in the order of `out`. Where the order is left open, no axis is
            moved: sums over axes that are not in the order in memory are slow.
        limit: Elements that an intermediate result may have; `None` for no limit.
    """
    if len(tensors) == 1:
        return _single(code, tensors[0], out, ordered)
    shapes = [tuple(code.sizes[x.space] for x in t.indices) for t in tensors]
    operands, output = _lettered(tensors, out)
    equation = f"{','.join(x.letters for x in operands)}->{output}"
    optimize = "optimal" if len(tensors) <= _OPTIMAL_UP_TO else "auto"
    path, _ = opt_einsum.contract_path(
        equation, *shapes, shapes=True, optimize=optimize, memory_limit=limit
    )
    remaining = list(tensors)
    for chosen in path:
        taken = [remaining.pop(k) for k in sorted(chosen, reverse=True)]
        # Longest first, so that results keep the example index in front, contiguous.
        taken.sort(key=lambda tensor: -len(tensor.indices))
        kept = {x for t in remaining for x in t.indices} | set(out)
        last = ordered and not remaining
        remaining.append(_product(code, taken, kept, out if last else None))
    return _single(code, remaining[0], out, ordered)


def own_part(
    code: Collector, tensor: Tensor, summed: Collection[Index], shared: Counter[Index], alone: bool
) -> Tensor:
    """A factor before it meets the others: diagonals read, and what only it has summed.

    Args:
        code: Where the instructions go.
        tensor: The factor.
        summed: Indices that its product is summed over.
        shared: How many factors have each index.
        alone: Whether it is the only factor, whose product is its sum.
    """
    whole = code.size(tensor.indices)
    if len(set(tensor.indices)) < len(tensor.indices):
        kept = tuple(dict.fromkeys(tensor.indices))
        tensor = code.assign(Einsum(*_lettered([tensor], kept)), kept)
    for axis in reversed(range(len(tensor.indices))):
        index = tensor.indices[axis]
        if index in summed and code.sizes[index.space] == 1 and index.space != "n":
            left = tensor.indices[:axis] + tensor.indices[axis + 1 :]
            tensor = view(code, tensor, left)
    own = tensor.indices
    sums = [x for x in own if x in summed and shared[x] == 1]
    if sums and not alone:
        left = tuple(x for x in own if x not in sums)
        axes = tuple(own.index(x) for x in sums)
        return code.assign(AxisSum(tensor.name, axes), left, flops=whole)
    return tensor


def view(code: Collector, tensor: Tensor, out: tuple[Index, ...]) -> Tensor:
    """A tensor with its axes in another order, or without an axis of length one."""
    (operand,), output = _lettered([tensor], out)
    return code.assign(View(operand, output), out, view=True)


def _product(
    code: Collector, taken: Sequence[Tensor], kept: set[Index], out: tuple[Index, ...] | None
) -> Tensor:
    involved = tuple(dict.fromkeys(x for t in taken for x in t.indices))
    asked = out if out is not None else tuple(x for x in involved if x in kept)
    known = product(taken[0], taken[1], asked, code.sizes) if len(taken) == 2 else None
    if known is not None:
        side = _side(code, taken, asked)
        found = code.assign(known.operation, known.indices, flops=known.flops, side=side)
        return found if out is None else _single(code, found, out)
    sums = bool(set(involved) - set(asked))
    flops = code.size(involved) * (2 if sums else 1)
    side = _side(code, taken, asked) if sums and len(taken) > 1 else 0
    return code.assign(Einsum(*_lettered(taken, asked)), asked, flops=flops, side=side)


def _side(code: Collector, taken: Sequence[Tensor], kept: Sequence[Index]) -> int:
    """The shortest side of the matrices of a product: rows, columns, or what is summed."""
    if len(taken) > 2:
        return 1
    left, right = (t.indices for t in taken)
    rows = [x for x in left if x not in right]
    columns = [x for x in right if x not in left]
    summed = [x for x in left if x in right and x not in kept]
    return min(map(code.size, (rows, columns, summed)))


def _single(
    code: Collector, tensor: Tensor, out: tuple[Index, ...], ordered: bool = True
) -> Tensor:
    own = tensor.indices
    if own == out or (not ordered and set(own) == set(out)):
        return tensor
    if set(own) == set(out):
        return view(code, tensor, out)
    return code.assign(Einsum(*_lettered([tensor], out)), out, flops=code.size(own))


def _lettered(tensors: Sequence[Tensor], out: Sequence[Index]) -> tuple[tuple[Operand, ...], str]:
    """Tensors and a result with one letter for each index."""
    letters = lettering(x for t in tensors for x in t.indices)
    operands = tuple(Operand(t.name, "".join(letters[x] for x in t.indices)) for t in tensors)
    return operands, "".join(letters[x] for x in out)
