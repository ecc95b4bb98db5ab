"""Contractions over the parts of indices: an axis is split in place, parts are joined in place.

In `sum[o] g[n,r,t,o] * where(o == (h,d))` the index `o` and the pair `(h,d)` are the same, so that the
tensor of ones and zeros is never formed: g is read with two axes for one. Where a part is tied to more than
its index, the ones and zeros are a factor like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curvlang.compiler.codegen.collector import Collector
from curvlang.compiler.codegen.instructions import Mask, Reshape, Tensor
from curvlang.ir.expr import Call, Index
from curvlang.ir.places import SPLIT


@dataclass(frozen=True, slots=True)
class Division:
    """A contraction whose splits are gone.

    Args:
        tensors: The factors.
        summed: What they are summed over.
        out: The indices of the result, parts in place of those that are joined.
    """

    tensors: tuple[Tensor, ...]
    summed: tuple[Index, ...]
    out: tuple[Index, ...]


def divided(
    code: Collector,
    tensors: Sequence[Tensor],
    splits: Sequence[Call],
    summed: tuple[Index, ...],
    out: tuple[Index, ...],
) -> Division:
    """The factors with every axis in parts that can be.

    Args:
        code: Where the instructions go.
        tensors: The other factors.
        splits: Which index has which parts.
        summed: What the product is summed over.
        out: Indices of the result.
    """
    found = Division(tuple(tensors), summed, out)
    waiting = list(splits)
    while waiting:
        index, *parts = waiting.pop(0).indices
        rest = [x for split in waiting for x in split.indices]
        found = _divided(code, found, index, tuple(parts), rest)
    return found


def _divided(
    code: Collector, given: Division, index: Index, parts: tuple[Index, ...], rest: Sequence[Index]
) -> Division:
    held = [x for t in given.tensors for x in t.indices]
    free = [x for x in parts if x in given.out]
    alone = index not in rest and len(set(parts)) == len(parts)
    inner = index in given.summed and index in held and alone
    outer = index in given.out and not free and alone and set(parts) <= set(held)
    outer = outer and not set(parts) & set(rest)
    if not inner and not outer:
        shape = tuple(code.sizes[x.space] for x in (index, *parts))
        mask = code.assign(Mask(SPLIT, shape, ()), (index, *parts))
        return Division((*given.tensors, mask), given.summed, given.out)
    tensors = tuple(_in_parts(code, t, index, parts) for t in given.tensors)
    if inner:
        summed = tuple(x for x in given.summed if x != index)
        return Division(tensors, summed, given.out)
    summed = tuple(x for x in given.summed if x not in parts)
    place = given.out.index(index)
    own = (*given.out[:place], *parts, *given.out[place + 1 :])
    return Division(tensors, summed, own)


def _in_parts(code: Collector, tensor: Tensor, index: Index, parts: tuple[Index, ...]) -> Tensor:
    own = tuple(y for x in tensor.indices for y in (parts if x == index else (x,)))
    return reshaped(code, tensor, own)


def reshaped(code: Collector, tensor: Tensor, own: tuple[Index, ...]) -> Tensor:
    """The same entries with other axes, in the same order."""
    if own == tensor.indices:
        return tensor
    shape = tuple(-1 if x.space == "n" else code.sizes[x.space] for x in own)
    return code.assign(Reshape(tensor.name, shape), own, view=True)
