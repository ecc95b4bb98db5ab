"""Products of the Hessian and the GGN with vectors, for any model, by automatic differentiation.

Nothing of size P × P is formed. Data go through in batches; the batch size changes memory and
time, not the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.derivatives.forward import Rows
from curvlang.models.derivatives.product_methods import (
    GGNS,
    HESSIANS,
    ggn_way,
    hessian_way,
    no_products,
)
from curvlang.models.execution.torch_state import product_state
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import trainable

Product: TypeAlias = Callable[[Tensor], Tensor]
"""v [P] or [P, k] to the same shape."""

BATCH = 256
"""Examples that go through the model at once."""

COLUMNS = 32
"""Vectors that are multiplied at once."""


def hessian_product(
    model: nn.Module,
    loss: Loss,
    X: Tensor,
    y: Tensor,
    *,
    batch: int = BATCH,
    columns: int = COLUMNS,
    way: str | None = None,
) -> Product:
    """The map from v to H v, with H = (1/N) Σ ∇²ℓ_n, weight decay not included.

    Args:
        model: Any module; buffers and frozen parameters stay as they are.
        loss: The loss.
        X: Inputs, [N, …].
        y: Targets.
        batch: Examples that go through the model at once.
        columns: Vectors that are multiplied at once.
        way: How, where that is known; tried and checked on a few examples otherwise.

    Raises:
        SpecError: E0820, E0821 where the model has no second derivatives.
    """
    chosen = hessian_way(model, loss, X, y) if way is None else way
    return _product(model, X, y, HESSIANS[chosen](model, loss), batch, columns)


def ggn_product(
    model: nn.Module,
    loss: Loss,
    X: Tensor,
    y: Tensor,
    *,
    batch: int = BATCH,
    columns: int = COLUMNS,
    way: str | None = None,
) -> Product:
    """The map from v to G v, with G = (1/N) Σ J_nᵀ Λ_n J_n.

    Arguments as for `hessian_product`.

    Raises:
        SpecError: E0820 where the model has no tangents: columns of its layers give G v still.
    """
    chosen = ggn_way(model, loss, X, y) if way is None else way
    if chosen is None:
        raise no_products(model, X)
    return _product(model, X, y, GGNS[chosen](model, loss), batch, columns)


def _product(
    model: nn.Module, X: Tensor, y: Tensor, rows_of: Rows, batch: int, columns: int
) -> Product:
    P = sum(p.numel() for p in trainable(model).values())

    def product(v: Tensor) -> Tensor:
        if v.dim() not in (1, 2) or v.shape[0] != P:
            raise refusal(
                Code.E0412,
                f"a vector of shape {list(v.shape)} for {P} parameters",
                f"give [{P}] or [{P}, k]",
            )
        rows = v.reshape(P, -1).T
        found = torch.zeros_like(rows)
        with product_state(model):
            for Xb, yb in _batches(X, y, batch, rows.device):
                for k in range(0, rows.shape[0], columns):
                    found[k : k + columns] += rows_of(Xb, yb, rows[k : k + columns])
        return (found.T / X.shape[0]).reshape(v.shape)

    return product


def _batches(
    X: Tensor, y: Tensor, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for k in range(0, X.shape[0], size):
        yield X[k : k + size].to(device), y[k : k + size].to(device)
