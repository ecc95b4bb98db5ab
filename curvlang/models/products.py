"""Products of the Hessian and the GGN with vectors, for any model, by automatic differentiation.

Nothing of size P × P is formed. Data go through in batches; the batch size changes memory and
time, not the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvlang.models.blocks import trainable
from curvlang.models.loss import Loss
from curvlang.models.modes import settled_state
from curvlang.models.refusal import refusal
from curvlang.models.substitution import functional_call

Product: TypeAlias = Callable[[Tensor], Tensor]
"""v [P] or [P, k] to the same shape."""

Parameters: TypeAlias = dict[str, Tensor]

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
) -> Product:
    """The map from v to H v, with H = (1/N) Σ ∇²ℓ_n, weight decay not included.

    A tangent of the gradient (forward over reverse), Pearlmutter 1994.

    Args:
        model: Any module; buffers and frozen parameters stay as they are.
        loss: The loss.
        X: Inputs, [N, …].
        y: Targets.
        batch: Examples that go through the model at once.
        columns: Vectors that are multiplied at once.
    """

    def one(theta: Parameters, X: Tensor, y: Tensor, v: Parameters) -> Parameters:
        def total(point: Parameters) -> Tensor:
            return loss.per_example(functional_call(model, point, (X,)), y).sum()

        found: Parameters = jvp(grad(total), (theta,), (v,))[1]
        return found

    return _product(model, X, y, one, batch, columns)


def ggn_product(
    model: nn.Module,
    loss: Loss,
    X: Tensor,
    y: Tensor,
    *,
    batch: int = BATCH,
    columns: int = COLUMNS,
) -> Product:
    """The map from v to G v, with G = (1/N) Σ J_nᵀ Λ_n J_n: a tangent, Λ at the outputs, and back.

    Arguments as for `hessian_product`.
    """

    def one(theta: Parameters, X: Tensor, y: Tensor, v: Parameters) -> Parameters:
        def output(point: Parameters) -> Tensor:
            found: Tensor = functional_call(model, point, (X,))
            return found

        f, tangent = jvp(output, (theta,), (v,))[:2]
        curved = loss.hessian_product(f, y, tangent).reshape(f.shape)
        found: Parameters = vjp(output, theta)[1](curved)[0]
        return found

    return _product(model, X, y, one, batch, columns)


Single: TypeAlias = Callable[[Parameters, Tensor, Tensor, Parameters], Parameters]
"""θ, X, y, v to the product summed over a batch; v and the result by parameter."""


def _product(
    model: nn.Module, X: Tensor, y: Tensor, one: Single, batch: int, columns: int
) -> Product:
    theta: Parameters = {name: p.detach() for name, p in trainable(model).items()}
    P = sum(p.numel() for p in theta.values())
    many = vmap(one, in_dims=(None, None, None, 0), randomness="error")

    def product(v: Tensor) -> Tensor:
        if v.dim() not in (1, 2) or v.shape[0] != P:
            raise refusal(
                "E0412",
                f"a vector of shape {list(v.shape)} for {P} parameters",
                f"give [{P}] or [{P}, k]",
            )
        rows = v.reshape(P, -1).T
        found = torch.zeros_like(rows)
        # Fused attention kernels have no tangents; the plain one does.
        with settled_state(), sdpa_kernel(SDPBackend.MATH), _constant_padding(model):
            for Xb, yb in _batches(X, y, batch, rows.device):
                for k in range(0, rows.shape[0], columns):
                    given = _by_parameter(rows[k : k + columns], theta)
                    found[k : k + columns] += _as_rows(many(theta, Xb, yb, given))
        return (found.T / X.shape[0]).reshape(v.shape)

    return product


@contextmanager
def _constant_padding(model: nn.Module) -> Iterator[None]:
    """Padding rows of embeddings as constants in forward mode too: reverse mode leaves them out."""
    handles = [
        module.register_forward_hook(_hold_padding)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hold_padding(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    assert isinstance(module, nn.Embedding)
    padded = torch.isin(given[0], torch.tensor(module.padding_idx, device=given[0].device))
    return torch.where(padded.unsqueeze(-1), output.detach(), output)


def _batches(
    X: Tensor, y: Tensor, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for k in range(0, X.shape[0], size):
        yield X[k : k + size].to(device), y[k : k + size].to(device)


def _by_parameter(rows: Tensor, theta: Parameters) -> Parameters:
    """Vectors [k, P] cut into tensors [k, *shape of the parameter]."""
    pieces = torch.split(rows, [p.numel() for p in theta.values()], 1)
    return {
        name: piece.reshape(-1, *p.shape)
        for (name, p), piece in zip(theta.items(), pieces, strict=True)
    }


def _as_rows(pieces: Parameters) -> Tensor:
    """The inverse of `_by_parameter`."""
    return torch.cat([piece.reshape(len(piece), -1) for piece in pieces.values()], 1)
