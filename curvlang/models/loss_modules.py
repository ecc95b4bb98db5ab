"""Torch's own loss modules, read by their settings."""

from __future__ import annotations

from torch import Tensor, nn

from curvlang.models.cross_entropy import CrossEntropy
from curvlang.models.elementwise_losses import BinaryCrossEntropy, MeanSquaredError
from curvlang.models.loss import Loss
from curvlang.models.refusal import refusal
from curvlang.models.user_loss import AutodiffLoss


def loss_of_module(module: nn.Module) -> Loss:
    """The loss whose mean over the examples is what the module gives for a batch.

    `CrossEntropyLoss`, `MSELoss` and `BCEWithLogitsLoss` become the losses that ship; another
    module is called with the outputs and the target of one example, as a function would be. A
    mean over a batch is one over the examples, and inside an example over its positions.

    Raises:
        SpecError: E0582 where a mean over a batch is no mean over its examples.
    """
    match module:
        case nn.CrossEntropyLoss():
            return _cross_entropy(module)
        case nn.MSELoss(reduction="mean"):
            return MeanSquaredError()
        case nn.BCEWithLogitsLoss(reduction="mean", weight=None):
            return BinaryCrossEntropy(_numbers(module.pos_weight))
        case _:
            kind = type(module)
            return AutodiffLoss(module, f"{kind.__module__}.{kind.__qualname__}")


def _cross_entropy(module: nn.CrossEntropyLoss) -> CrossEntropy:
    weight = _numbers(module.weight)
    mean = module.reduction == "mean"
    if weight and mean:
        raise refusal(
            "E0582",
            "`CrossEntropyLoss(weight=…)` divides a batch by the weights of its classes",
            'use `cv.CrossEntropy(weight=…)`, or `reduction="sum"`',
            notes=("its mean is no mean of losses that the examples have by themselves",),
        )
    return CrossEntropy(
        "mean" if mean else "sum", module.label_smoothing, module.ignore_index, weight
    )


def _numbers(weight: Tensor | None) -> tuple[float, ...]:
    return () if weight is None else tuple(weight.reshape(-1).tolist())
