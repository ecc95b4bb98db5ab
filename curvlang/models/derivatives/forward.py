"""Products of H and of the GGN with many vectors at once: tangents of functions, by `torch.func`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap

from curvlang.models.execution.substitution import functional_call
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import trainable

RowProducts: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""X, y and vectors [k, P] to products summed over the batch, [k, P]."""

Parameters: TypeAlias = dict[str, Tensor]


def hessian_rows(model: nn.Module, loss: Loss) -> RowProducts:
    """Σ_n ∇²ℓ_n v: a tangent of the gradient (forward over reverse), Pearlmutter 1994."""

    def one(theta: Parameters, X: Tensor, y: Tensor, v: Parameters) -> Parameters:
        def total(point: Parameters) -> Tensor:
            return loss.per_example(functional_call(model, point, (X,)), y).sum()

        found: Parameters = jvp(grad(total), (theta,), (v,))[1]
        return found

    return _rows(model, one)


def ggn_rows(model: nn.Module, loss: Loss) -> RowProducts:
    """Σ_n J_nᵀ Λ_n J_n v: a tangent, Λ at the outputs, and back."""

    def one(theta: Parameters, X: Tensor, y: Tensor, v: Parameters) -> Parameters:
        def output(point: Parameters) -> Tensor:
            found: Tensor = functional_call(model, point, (X,))
            return found

        f, tangent = jvp(output, (theta,), (v,))[:2]
        curved = loss.hessian_product(f, y, tangent).reshape(f.shape)
        found: Parameters = vjp(output, theta)[1](curved)[0]
        return found

    return _rows(model, one)


def tangent(model: nn.Module, X: Tensor, v: Tensor) -> Tensor:
    """J v for one vector [P], in the outputs' shape."""
    theta: Parameters = {name: p.detach() for name, p in trainable(model).items()}

    def one(given: Parameters) -> Tensor:
        found: Tensor = jvp(lambda point: functional_call(model, point, (X,)), (theta,), (given,))[
            1
        ]
        return found

    return vmap(one)(by_parameter(v.unsqueeze(0), theta))[0]


def _rows(
    model: nn.Module, one: Callable[[Parameters, Tensor, Tensor, Parameters], Parameters]
) -> RowProducts:
    theta: Parameters = {name: p.detach() for name, p in trainable(model).items()}
    many = vmap(one, in_dims=(None, None, None, 0), randomness="error")

    def rows(X: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return as_rows(many(theta, X, y, by_parameter(v, theta)))

    return rows


def by_parameter(rows: Tensor, theta: Parameters) -> Parameters:
    """Vectors [k, P] cut into tensors [k, *shape of the parameter]."""
    pieces = rows.split([p.numel() for p in theta.values()], 1)
    # Numbers of their own: complex views need an even place in memory, and even strides.
    return {
        name: piece.clone(memory_format=torch.contiguous_format).reshape(-1, *p.shape)
        for (name, p), piece in zip(theta.items(), pieces, strict=True)
    }


def as_rows(pieces: Parameters) -> Tensor:
    """The inverse of `by_parameter`."""
    return torch.cat([piece.reshape(len(piece), -1) for piece in pieces.values()], 1)
