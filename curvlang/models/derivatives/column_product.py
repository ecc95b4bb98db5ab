"""Products of the exact GGN with many vectors at once, from the columns of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.models.data.rows import Rows
from curvlang.models.derivatives.product_methods import ggn_way
from curvlang.models.derivatives.products import WHOLE, Product, ggn_product
from curvlang.models.execution.torch_state import settled
from curvlang.models.layers import Input, OneHot
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import LayerBlock, column_rows
from curvlang.models.tracing.leaves import LeafRequest, leaves


def ggn_of_layers(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    layers: Sequence[LayerBlock],
    *,
    way: Callable[[], str | None] | None = None,
) -> Product:
    """The map from v to G v, by the cheaper of two exact ways for the number of vectors given.

    G v = (1/N) Σ_n Σ_r j_nr (j_nrᵀ v) with j_nr = Σ_t g[n,r,t,o] a[n,t,i]: four multiplications per
    parameter, position and vector, after one backward pass with R columns. With fewer vectors
    than columns a tangent and a pull-back per vector are cheaper (`ggn_product`), for a model that
    has them.

    Args:
        model: A model whose trainable parameters all lie in covered layers.
        loss: The loss.
        X: Inputs, [N, …].
        y: Targets.
        layers: Every layer's block.
        way: Asked how tangents are formed, None for not at all; tried where it is not given.
    """
    ask = cache(way or (lambda: ggn_way(model, loss, X, y)))

    @settled
    def product(v: Tensor) -> Tensor:
        columns = v.shape[1]
        with torch.no_grad():
            outputs = model(X[:1]).numel()
        # Asked before any column is formed: a large vocabulary has more than there is memory for.
        if loss.columns(outputs) > columns and ask() is not None:
            return ggn_product(model, loss, X, y, way=ask())(v)
        found = torch.zeros_like(v)
        for start in range(0, len(X), WHOLE.examples):
            rows = slice(start, start + WHOLE.examples)
            batch = X[rows].to(v.device), y[rows].to(v.device)
            given = leaves(model, loss, *batch, layers, LeafRequest({"a", "g"}))
            for k in range(0, columns, WHOLE.vectors):
                found[:, k : k + WHOLE.vectors] += _batch(
                    layers, given, v[:, k : k + WHOLE.vectors]
                )
        return found / len(X)

    return product


def _batch(
    layers: Sequence[LayerBlock], given: Mapping[str, Mapping[str, Any]], v: Tensor
) -> Tensor:
    """Σ over the batch of j (jᵀ v), the inner products summed over all layers first."""
    inner = sum(_inner(block, **given[block.name], v=v[block.index]) for block in layers)
    assert isinstance(inner, Tensor)
    found = torch.empty_like(v)
    for block in layers:
        found[block.index] = _outer(block, **given[block.name], inner=inner)
    return found


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
