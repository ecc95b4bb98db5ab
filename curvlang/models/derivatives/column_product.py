"""Products of the exact GGN with many vectors at once, from the columns of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.data.rows import Rows
from curvlang.models.derivatives.product_methods import ggn_way
from curvlang.models.derivatives.products import WHOLE, Portion, SumOver, ggn_sum
from curvlang.models.execution.torch_state import settled
from curvlang.models.layers import Input, OneHot
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import LayerBlock, column_rows
from curvlang.models.tracing.leaves import LeafRequest, leaves


@dataclass(frozen=True, eq=False)
class LayersGGN:
    """Products with the exact GGN, by the cheaper of two exact ways for the number of vectors given.

    G v = (1/N) Σ_n Σ_r j_nr (j_nrᵀ v) with j_nr = Σ_t g[n,r,t,o] a[n,t,i]: four multiplications per
    parameter, position and vector, after one backward pass with R columns. With fewer vectors
    than columns a tangent and a pull-back per vector are cheaper (`ggn_sum`), for a model that
    has them.

    Args:
        model: A model whose trainable parameters all lie in covered layers.
        loss: The loss.
        X: Inputs, [N, …].
        y: Targets.
        layers: Every layer's block.
        way: Asked how tangents are formed, None for not at all; tried where it is not given.
        portion: Asked what is computed at once: with the number of columns of an example, or None for
            tangents.
    """

    model: nn.Module
    loss: Loss
    X: Rows
    y: Rows
    layers: Sequence[LayerBlock]
    way: Callable[[], str | None] | None = None
    portion: Callable[[int | None], Portion] = lambda columns: WHOLE

    def whole(self, v: Tensor) -> Tensor:
        """G v."""
        return self.whole_sum(range(len(self.X)), v) / len(self.X)

    def blocks(self, v: Tensor) -> Tensor:
        """The product with the blocks of G on its diagonal, all of them in one pass over the data."""
        return self.blocks_sum(range(len(self.X)), v) / len(self.X)

    @settled
    def whole_sum(self, within: range, v: Tensor) -> Tensor:
        """The part of some examples in N G v."""
        tangents = self._tangents(v.shape[1])
        if tangents is None:
            return self._by_columns(within, v, apart=False)
        return tangents(within, v)

    @settled
    def blocks_sum(self, within: range, v: Tensor) -> Tensor:
        """The part of some examples in N times the product with the blocks of G on its diagonal.

        A tangent and a pull-back are needed for every vector and block.
        """
        places = [place for block in self.layers for place in block.places]
        tangents = self._tangents(v.shape[1] * len(places))
        if tangents is None:
            return self._by_columns(within, v, apart=True)
        return _by_block(lambda x: tangents(within, x), places, v)

    @cached_property
    def _way(self) -> str | None:
        if self.way is not None:
            return self.way()
        return ggn_way(self.model, self.loss, self.X, self.y)

    @cached_property
    def _columns(self) -> int:
        with torch.no_grad():
            return self.loss.columns(self.model(self.X[:1]).numel())

    def _tangents(self, count: int) -> SumOver | None:
        """Sums of products by tangents, where they are cheaper for so many vectors and the model has them."""
        # Asked before any column is formed: a large vocabulary has more than there is memory for.
        if self._columns <= count or self._way is None:
            return None
        portion = self.portion(None)
        return ggn_sum(self.model, self.loss, self.X, self.y, self._way, portion)

    def _by_columns(self, within: range, v: Tensor, *, apart: bool) -> Tensor:
        found, portion = torch.zeros_like(v), self.portion(self._columns)
        for start in range(within.start, within.stop, portion.examples):
            rows = slice(start, min(start + portion.examples, within.stop))
            batch = self.X[rows].to(v.device), self.y[rows].to(v.device)
            given = leaves(self.model, self.loss, *batch, self.layers, LeafRequest({"a", "g"}))
            for k in range(0, v.shape[1], portion.vectors):
                some = slice(k, k + portion.vectors)
                found[:, some] += _batch(self.layers, given, v[:, some], apart)
        return found


def _by_block(whole: Callable[[Tensor], Tensor], places: Sequence[Tensor], v: Tensor) -> Tensor:
    """Products with the blocks on the diagonal from products with the whole matrix, one for each block."""
    found = torch.zeros_like(v)
    for place in places:
        own = torch.zeros_like(v)
        own[place] = v[place]
        found[place] = whole(own)[place]
    return found


def _batch(
    layers: Sequence[LayerBlock],
    given: Mapping[str, Mapping[str, Any]],
    v: Tensor,
    apart: bool = False,
) -> Tensor:
    """Σ over the batch of j (jᵀ v), the inner products summed over all layers first unless `apart`."""
    found = torch.empty_like(v)
    if apart:
        for block in layers:
            found[block.index] = _own(block, **given[block.name], v=v[block.index])
        return found
    inner = sum(_inner(block, **given[block.name], v=v[block.index]) for block in layers)
    assert isinstance(inner, Tensor)
    for block in layers:
        found[block.index] = _outer(block, **given[block.name], inner=inner)
    return found


def _own(block: LayerBlock, a: Input, g: Tensor, v: Tensor) -> Tensor:
    """Σ_n,r j (jᵀ v) of a block by itself; of blocks of one shape each by itself."""
    if block.count == 1:
        return _outer(block, a, g, _inner(block, a, g, v))
    rows = column_rows(block, a, g).unflatten(2, (block.count, -1))
    inner = torch.einsum("nrbs,bsk->nrbk", rows, v.unflatten(0, (block.count, -1)))
    return torch.einsum("nrbs,nrbk->bsk", rows, inner).flatten(0, 1)


def _inner(block: LayerBlock, a: Input, g: Tensor, v: Tensor) -> Tensor:
    """u[n,r,k] = Σ_{t,o,i} g[n,r,t,o] v[o,i,k] a[n,t,i]; over all blocks of one shape together."""
    if block.count > 1:
        return column_rows(block, a, g) @ v
    n, r, t, o = g.shape
    if isinstance(a, OneHot):
        rows = v.reshape(o, block.d_in, -1)
        moved = torch.einsum("nti,oik->ntok", a, rows)
        return torch.einsum("nrto,ntok->nrk", g, moved)
    by_input = v.reshape(o, block.d_in, -1).transpose(0, 1).reshape(block.d_in, -1)
    moved = (a.reshape(n * t, -1) @ by_input).reshape(n, t * o, -1)
    return g.reshape(n, r, t * o) @ moved


def _outer(block: LayerBlock, a: Input, g: Tensor, inner: Tensor) -> Tensor:
    """Σ_{n,r,t} g[n,r,t,o] a[n,t,i] u[n,r,k], `[size, k]`."""
    if block.count > 1:
        return column_rows(block, a, g).flatten(0, 1).T @ inner.flatten(0, 1)
    n, r, t, o = g.shape
    k = inner.shape[-1]
    if isinstance(a, OneHot):
        each = torch.einsum("nrto,nrk->ntok", g, inner)
        return torch.einsum("nti,ntok->oik", a, each).reshape(-1, k)
    moved = (g.reshape(n, r, t * o).transpose(1, 2) @ inner).reshape(n * t, o * k)
    return (a.reshape(n * t, -1).T @ moved).reshape(-1, o, k).transpose(0, 1).reshape(-1, k)
