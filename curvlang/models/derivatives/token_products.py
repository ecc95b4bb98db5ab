"""How the loss at every position moves along directions of the parameters, by one tangent for each direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from curvlang.models.derivatives.forward import Parameters, by_parameter
from curvlang.models.execution.substitution import functional_call
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import trainable


def token_products(model: nn.Module, loss: Loss, X: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Σ_c ∂ℓ_n/∂f_{t,c} (J u)_{t,c} of every vector u, [k, B, T]; over t they add up to uᵀ∇ℓ_n.

    Args:
        model: Its outputs are [B, T, …].
        loss: Of an example.
        X: Inputs.
        y: Targets.
        rows: The vectors, [k, P].
    """
    theta: Parameters = {name: p.detach() for name, p in trainable(model).items()}

    def outputs(point: Parameters) -> Tensor:
        found: Tensor = functional_call(model, point, (X,))
        return found

    with torch.no_grad():
        f = outputs(theta)
    slope = loss.gradient(f, y).reshape(*f.shape[:2], -1)

    def one(v: Parameters) -> Tensor:
        tangent: Tensor = jvp(outputs, (theta,), (v,))[1]
        return (slope * tangent.reshape(slope.shape)).sum(-1)

    found: Tensor = vmap(one, randomness="error")(by_parameter(rows, theta))
    return found
