"""Losses per example, with their gradient, Hessian and curvature factor at the model's output.

Shapes: the model's output `f [B, …]` is flattened to F numbers per example, row-major; `y` are
the B targets. A factor `S [B, F, R]` has S Sᵀ = ∇²_f ℓ for every example, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.language import registry
from curvlang.language.chain import Part
from curvlang.language.checking.arguments import named
from curvlang.models.arguments import arguments, placed
from curvlang.models.data.rows import Rows
from curvlang.models.losses.cross_entropy import CrossEntropy
from curvlang.models.losses.elementwise_losses import BinaryCrossEntropy, MeanSquaredError
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.loss_modules import loss_of_module, shown_name, takes_batches
from curvlang.models.losses.user_loss import AutodiffLoss, Function

LOSSES: Mapping[str, Loss] = {
    loss.name: loss for loss in (CrossEntropy(), MeanSquaredError(), BinaryCrossEntropy())
}
"""Every loss by its name in a spec, with its defaults."""


def loss_named(
    loss: str | Loss | Function | nn.Module,
    outputs: Tensor | None = None,
    targets: Rows | None = None,
) -> Loss:
    """The loss of that name; a `Loss` is itself, torch's are ours, a function is autodiff's.

    Args:
        loss: As given.
        outputs: The model's outputs for a few examples, where they are known.
        targets: The targets, likewise.

    Raises:
        SpecError: E0715 for an unknown name, E0411 for a value that is not a loss, E0582 for a
            module of torch whose objective is not a mean over the examples, E0587 for one with
            parameters.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) or not (isinstance(loss, str) or callable(loss)):
        raise _no_loss(loss)
    if takes_batches(loss):
        return loss_of_module(loss, outputs, targets)  # type: ignore[arg-type]
    if not isinstance(loss, str):
        return AutodiffLoss(loss, shown_name(loss))
    named("loss", loss, registry.LOSSES)
    return LOSSES[loss]


def _no_loss(loss: object) -> SpecError:
    """The refusal of a value of another type; a class is to be called."""
    if isinstance(loss, type):
        return refusal(
            Code.E0411, f"the loss `{loss.__name__}` is a class", f"make one: `{loss.__name__}()`"
        )
    known = ", ".join(f"`{name}`" for name in LOSSES)
    return refusal(
        Code.E0411,
        f"a `{type(loss).__name__}` is not a loss",
        f"use one of {known}, a loss module of torch, or a function of outputs and target",
    )


def loss_from(part: Part) -> Loss:
    """The loss of a spec's `loss` line, with its parameters.

    Raises:
        SpecError: E0715, E0703 to E0707 at the line.
    """
    values = arguments(part, "loss", registry.LOSSES)
    loss = LOSSES[part.name]
    with placed(part.span):
        return replace(loss, **values) if values else loss  # type: ignore[type-var]


__all__ = [
    "LOSSES",
    "AutodiffLoss",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Loss",
    "MeanSquaredError",
    "loss_from",
    "loss_named",
]
