"""Products of H and of the GGN by backward passes alone, on the model itself, a vector at a time.

For models that `torch.func` cannot run: with backward hooks, checkpoints, functions of their own,
packed sequences, or operations that have no forward mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from curvlang.models.derivatives.forward import RowProducts
from curvlang.models.derivatives.held import Constants
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import trainable

Pieces = Sequence[Tensor | None]
"""A tensor for each parameter; None where there is no path to it."""


def hessian_rows(model: nn.Module, loss: Loss) -> RowProducts:
    """Σ_n ∇²ℓ_n v: the gradient of ⟨∇ℓ, v⟩ (reverse over reverse)."""
    own = list(trainable(model).values())

    def rows(X: Tensor, y: Tensor, v: Tensor) -> Tensor:
        total = loss.per_example(model(X), y).sum()
        slopes = torch.autograd.grad(total, own, create_graph=True, allow_unused=True)
        return torch.stack([_flat(own, _derivative(slopes, own, own, row)) for row in v])

    return rows


def ggn_rows(model: nn.Module, loss: Loss) -> RowProducts:
    """Σ_n J_nᵀ Λ_n J_n v: two backward passes give J v, a third one pulls Λ J v back."""
    own = list(trainable(model).values())

    def rows(X: Tensor, y: Tensor, v: Tensor) -> Tensor:
        f: Tensor = model(X)
        found = []
        for tangent in tangents(f, own, v):
            curved = loss.hessian_product(f.detach(), y, tangent).reshape(f.shape)
            found.append(_flat(own, _pulled(f, own, curved)))
        return torch.stack(found)

    return rows


def tangents(f: Tensor, own: Sequence[Tensor], v: Tensor) -> list[Tensor]:
    """J v [*shape of f] for vectors [k, P]: Jᵀu is linear in u, and J v is its derivative by u."""
    u = torch.zeros_like(f, requires_grad=True)
    pulled = torch.autograd.grad(f, own, u, create_graph=True, allow_unused=True)
    found = []
    for row in v:
        (tangent,) = _derivative(pulled, own, [u], row)
        found.append(torch.zeros_like(f) if tangent is None else tangent.detach())
    return found


def gradient(
    model: nn.Module, loss: Loss, X: Tensor, y: Tensor, held: Constants | None = None
) -> Tensor:
    """Σ_n ∇ℓ_n of the model itself, [P]; with what it holds constant noted, or as it was noted."""
    own = list(trainable(model).values())
    with held or nullcontext():
        f = model(X)
    total = loss.per_example(f, y).sum()
    return _flat(own, torch.autograd.grad(total, own, allow_unused=True))


def pull_back(model: nn.Module, f: Tensor, cotangent: Tensor) -> Tensor:
    """Jᵀ u of the model itself, [P]."""
    own = list(trainable(model).values())
    return _flat(own, _pulled(f, own, cotangent))


def _pulled(f: Tensor, own: Sequence[Tensor], cotangent: Tensor) -> Pieces:
    return torch.autograd.grad(f, own, cotangent, retain_graph=True, allow_unused=True)


def _derivative(slopes: Pieces, own: Sequence[Tensor], by: Sequence[Tensor], v: Tensor) -> Pieces:
    """The derivative of ⟨slopes, v⟩ with respect to some tensors; a slope for each parameter."""
    # Numbers of their own: complex views need an even place in memory.
    weights = [
        w.clone().reshape(p.shape)
        for w, p in zip(v.split([p.numel() for p in own]), own, strict=True)
    ]
    live = [
        (s, w) for s, w in zip(slopes, weights, strict=True) if s is not None and s.requires_grad
    ]
    if not live:
        return [None] * len(by)
    outputs, given = zip(*live, strict=True)
    return torch.autograd.grad(outputs, by, given, retain_graph=True, allow_unused=True)


def _flat(own: Sequence[Tensor], pieces: Pieces) -> Tensor:
    """One vector of a tensor for each parameter, zero where there is none."""
    filled = (
        torch.zeros_like(p) if piece is None else piece.detach()
        for p, piece in zip(own, pieces, strict=True)
    )
    return torch.cat([piece.to_dense().reshape(-1) for piece in filled])
