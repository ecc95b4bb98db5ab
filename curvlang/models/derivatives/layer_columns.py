"""The columns j[n,r,p] of a model, known by their layers: their Gram matrix without forming them.

With one position j is g ⊗ a in every layer, and the block of layers k and l is

    Σ_n (Σ_r g_k[n,r,o] g_l[n,r,o']) a_k[n,i] a_l[n,i'],

one product of [O O', N] with [N, I I']: R times fewer operations than Σ_nr j jᵀ takes, and no tensor
of R · P numbers for each example. With T positions there are T T' such terms; where they are more
than R, and where a layer is several blocks, the columns of that pair are formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from curvlang.models.layers.lazy_factors import StandIn
from curvlang.models.tracing.blocks import LayerBlock, column_rows
from curvlang.models.tracing.leaves import columns

HELD = 2**26
"""Bytes of the largest intermediate result of a pair of layers."""


class LayerColumns(StandIn):
    """Σ_t g[n,r,t,o] a[n,t,i] at every layer's places, shape [B, R, P], formed where it must be.

    Args:
        layers: The blocks, which hold all parameters.
        given: `a` and `g` of every block; a dense tensor each.
    """

    __slots__ = ("_formed", "given", "layers")

    def __init__(
        self, layers: Sequence[LayerBlock], given: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        self.layers = tuple(layers)
        self.given = {b.name: {k: given[b.name][k] for k in ("a", "g")} for b in layers}
        self._formed: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that it stands for."""
        first = self.given[self.layers[0].name]["g"]
        return torch.Size((*first.shape[-4:-2], sum(b.size for b in self.layers)))

    @property
    def dtype(self) -> torch.dtype:
        """Precision."""
        return self.given[self.layers[0].name]["g"].dtype

    def dense(self) -> Tensor:
        """The tensor itself, formed once."""
        if self._formed is None:
            self._formed = columns(self.layers, self.given)
        return self._formed

    def gram(self) -> Tensor:
        """Σ_nr j[n,r,p] j[n,r,q], [P, P]: every pair of layers once, and mirrored."""
        P = self.shape[2]
        found = self.given[self.layers[0].name]["g"].new_empty(P, P)
        for left, right in combinations_with_replacement(self.layers, 2):
            block = _pair((left, self.given[left.name]), (right, self.given[right.name]))
            if left is right:
                block = (block + block.T) / 2
            found[left.index.unsqueeze(1), right.index] = block
            if left is not right:
                found[right.index.unsqueeze(1), left.index] = block.T
        return found

    def __mul__(self, factor: Any) -> Tensor:
        return self.dense() * factor

    __rmul__ = __mul__

    def __pow__(self, exponent: float) -> Tensor:
        return self.dense() ** exponent

    @classmethod
    def by_parts(cls, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """The Gram matrix goes by layers."""
        own = function is torch.einsum and len(args) == 3 and args[1] is args[2]
        return args[1].gram() if own and is_gram(args[0]) else NotImplemented


def layer_columns(
    layers: Sequence[LayerBlock], given: Mapping[str, Mapping[str, Any]]
) -> LayerColumns | Tensor:
    """The columns by their layers; formed where an input is not a dense tensor."""
    if all(isinstance(given[b.name]["a"], Tensor) for b in layers):
        return LayerColumns(layers, given)
    return columns(layers, {b.name: dict(given[b.name]) for b in layers})


def gram_elements(layers: Sequence[LayerBlock], columns: int, examples: int, itemsize: int) -> int:
    """Numbers that the Gram matrix by layers holds at its peak beyond its inputs and itself."""
    most = 0
    for left, right in combinations_with_replacement(layers, 2):
        O, I, U, J = left.d_out, left.d_in, right.d_out, right.d_in
        block = left.size * right.size
        if _formed_first(left, right, columns):
            held = examples * columns * (left.size + right.size)
        else:
            rows = max(1, HELD // (_numbers(left, right) * itemsize))
            held = min(examples, rows) * (O * U + I * J) + block
        most = max(most, held + block)
    return most


def gram_flops(layers: Sequence[LayerBlock], columns: int, examples: int) -> list[int]:
    """Operations of the product of every pair of layers."""
    found = []
    for left, right in combinations_with_replacement(layers, 2):
        places = left.positions * right.positions
        entries = left.size * right.size
        if _formed_first(left, right, columns):
            found.append(2 * examples * columns * entries)
        else:
            outer = 2 * columns * left.d_out * right.d_out
            found.append(examples * places * (outer + 2 * entries))
    return found


def _numbers(left: LayerBlock, right: LayerBlock) -> int:
    """Of the largest intermediate result of a pair, for one example."""
    places = left.positions * right.positions
    return places * max(left.d_out * right.d_out, left.d_in * right.d_in)


def is_gram(equation: str) -> bool:
    """Whether an equation of one tensor with itself sums all axes but the last one of each."""
    left, out = equation.replace(" ", "").split("->")
    one, other = left.split(",")
    same = len(one) == len(other) == 3 and one[:2] == other[:2] and one[2] != other[2]
    return same and len(set(one + other)) == 4 and sorted(out) == sorted(one[2] + other[2])


def _formed_first(left: LayerBlock, right: LayerBlock, columns: int) -> bool:
    """Whether the product of a pair is one of its columns."""
    return max(left.count, right.count) > 1 or left.positions * right.positions >= columns


_Layer = tuple[LayerBlock, Mapping[str, Tensor]]
"""A layer's block with its `a` and `g`."""


def _pair(first: _Layer, second: _Layer) -> Tensor:
    """The block of two layers, [O·I, O'·I']."""
    left, right = first[1], second[1]
    R, T, O = left["g"].shape[-3:]
    U, O2 = right["g"].shape[-2:]
    if _formed_first(first[0], second[0], R):
        one, other = (column_rows(block, **x).flatten(0, 1) for block, x in (first, second))
        return one.T @ other
    I, I2 = left["a"].shape[2], right["a"].shape[2]
    total = left["a"].new_zeros(O * O2, I * I2)
    for rows in _chunks(left["a"], T * U * max(O * O2, I * I2)):
        for t in range(T):
            for u in range(U):
                g = torch.einsum("nro,nrp->nop", left["g"][rows, :, t], right["g"][rows, :, u])
                a = left["a"][rows, t].unsqueeze(2) * right["a"][rows, u].unsqueeze(1)
                total.addmm_(g.flatten(1).T, a.flatten(1))
    return total.reshape(O, O2, I, I2).permute(0, 2, 1, 3).reshape(O * I, O2 * I2)


def _chunks(like: Tensor, numbers: int) -> Iterator[slice]:
    """Examples of which intermediate results of that many numbers each stay within `HELD`."""
    size = max(1, HELD // (numbers * like.element_size()))
    for start in range(0, len(like), size):
        yield slice(start, start + size)
