"""Products of the Hessian and the GGN with vectors, for any model, by automatic differentiation.

Nothing of size P × P is formed. Data go through in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.derivatives.forward import RowProducts
from curvlang.models.derivatives.layer_hessian import MEMORY
from curvlang.models.derivatives.product_methods import (
    GGNS,
    HESSIANS,
    ggn_way,
    hessian_way,
    no_products,
)
from curvlang.models.execution.torch_state import product_state
from curvlang.models.losses.loss import Loss
from curvlang.models.sources.transfers import moved
from curvlang.models.tracing.blocks import trainable

Product: TypeAlias = Callable[[Tensor], Tensor]
"""v [P] or [P, k] to the same shape."""
SumOver: TypeAlias = Callable[[range, Tensor], Tensor]
"""Consecutive examples and v [P, k] to the sum of their products, [P, k], not divided by their number."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What is computed at once: it changes memory and time, not the result.

    Args:
        examples: Examples that go through the model at once.
        vectors: Vectors that are multiplied at once.
        held: Bytes of intermediate results, where the Hessian is formed by layers.
    """

    examples: int = 256
    vectors: int = 32
    held: int = MEMORY


@dataclass(frozen=True, slots=True)
class Method:
    """How the dense Hessian is formed.

    Args:
        way: Of products: one of `WORDS`.
        portion: What is computed at once.
    """

    way: str
    portion: Portion


WHOLE = Portion()
"""What a processor does well."""


def hessian_product(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    way: str | None = None,
    portion: Portion = WHOLE,
) -> Product:
    """The map from v to H v, with H = (1/N) Σ ∇²ℓ_n, weight decay not included.

    Args:
        model: Any module; buffers and frozen parameters stay as they are.
        loss: The loss.
        X: Inputs, [N, …].
        y: Targets.
        way: How, where that is known; tried and checked on a few examples otherwise.
        portion: What is computed at once.

    Raises:
        SpecError: E0820, E0821 where the model has no second derivatives.
    """
    return _mean(model, X, hessian_sum(model, loss, X, y, way, portion))


def hessian_sum(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    way: str | None = None,
    portion: Portion = WHOLE,
) -> SumOver:
    """The map from some examples and v to Σ ∇²ℓ_n v over them; arguments as for `hessian_product`."""
    chosen = hessian_way(model, loss, X, y) if way is None else way
    return _sum(model, X, y, HESSIANS[chosen](model, loss), portion)


def ggn_sum(
    model: nn.Module,
    loss: Loss,
    X: Rows,
    y: Rows,
    way: str | None = None,
    portion: Portion = WHOLE,
) -> SumOver:
    """The map from some examples and v to Σ J_nᵀ Λ_n J_n v over them; arguments as for `hessian_product`.

    Raises:
        SpecError: E0820 where the model has no tangents: columns of its layers give G v still.
    """
    chosen = ggn_way(model, loss, X, y) if way is None else way
    if chosen is None:
        raise no_products(model, X)
    return _sum(model, X, y, GGNS[chosen](model, loss), portion)


def _mean(model: nn.Module, X: Rows, over: SumOver) -> Product:
    P = sum(p.numel() for p in trainable(model).values())

    def product(v: Tensor) -> Tensor:
        if v.dim() not in (1, 2) or v.shape[0] != P:
            raise refusal(
                Code.E0412,
                f"a vector of shape {list(v.shape)} for {P} parameters",
                f"give [{P}] or [{P}, k]",
            )
        whole = over(range(X.shape[0]), v.reshape(P, -1))
        return (whole / X.shape[0]).reshape(v.shape)

    return product


def _sum(model: nn.Module, X: Rows, y: Rows, rows_of: RowProducts, portion: Portion) -> SumOver:
    at_once = portion.vectors

    def over(within: range, v: Tensor) -> Tensor:
        rows = v.T
        found = torch.zeros_like(rows)
        with product_state(model):
            for Xb, yb in _batches(X, y, within, portion.examples, rows.device):
                for k in range(0, rows.shape[0], at_once):
                    found[k : k + at_once] += rows_of(Xb, yb, rows[k : k + at_once])
        return found.T

    return over


def _batches(
    X: Rows, y: Rows, within: range, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for k in range(within.start, within.stop, size):
        own = slice(k, min(k + size, within.stop))
        yield moved(X[own], device), moved(y[own], device)
