"""The gradient of an example's loss, taken apart by the output positions that carry it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.cross_entropy import CrossEntropy
from curvlang.models.losses.loss import Loss, show_shape
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock, groups
from curvlang.models.tracing.half_precision import exact_columns, widened
from curvlang.models.tracing.trace import trace


def position_count(task: Task) -> int:
    """T of outputs [B, T, …].

    Raises:
        SpecError: E0592 where the outputs have no positions.
    """
    with torch.no_grad():
        f = task.model(task.few[:1])
    if isinstance(task.loss, CrossEntropy) and task.loss.axis == 1:
        raise refusal(
            Code.E0592,
            f"outputs of shape {show_shape(f.shape)} have their classes on axis 1, and positions are "
            "told apart on axis 1",
            "leave scores by position or token out; they are for models that give [B, T, …]",
        )
    if f.ndim < 3:
        raise refusal(
            Code.E0592,
            f"outputs of shape {show_shape(f.shape)} have no positions",
            "leave scores by position or token out; they are for models that give [B, T, …]",
        )
    return int(f.shape[1])


def position_gradients(
    model: nn.Module, loss: Loss, X: Tensor, y: Tensor, blocks: Sequence[LayerBlock]
) -> Tensor:
    """Σ_c ∂ℓ_n/∂f_{t,c} ∂f_{t,c}/∂θ, [B, T, P]: by the chain rule they add up to ∇ℓ_n over t.

    Where the loss is a sum over positions, the part of t is the gradient of t's own loss. One
    forward pass; T columns go back at once.
    """
    found = trace(model, X, groups(blocks))
    f = widened(found.output.detach())
    B, T = f.shape[:2]
    slope = loss.gradient(f, widened(y)).reshape(B, T, -1)
    eye = torch.eye(T, dtype=f.dtype, device=f.device)
    apart = torch.einsum("btc,ts->btcs", slope, eye).reshape(B, -1, T)
    return exact_columns(model, X, blocks, found, apart)
