"""Torch's own loss modules and functions, and modules of that kind: what they are for one example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.content import full_name
from curvlang.models.data.rows import Rows
from curvlang.models.fingerprint import digest
from curvlang.models.losses.cross_entropy import CrossEntropy
from curvlang.models.losses.elementwise_losses import BinaryCrossEntropy, MeanSquaredError
from curvlang.models.losses.loss import Loss
from curvlang.models.losses.user_loss import AutodiffLoss, Function

SHOWN = 8
"""Longest tensor whose numbers stand in a loss's name; of longer ones, their hash."""

TORCHS = nn.CrossEntropyLoss.__module__
"""Where torch's own loss modules are defined."""

MODULES: Mapping[Callable[..., Tensor], type[nn.Module]] = {
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.mse_loss: nn.MSELoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    functional.nll_loss: nn.NLLLoss,
}
"""Functions of torch that are read as the module of the same settings."""

SETTINGS = {"weight", "pos_weight", "ignore_index", "reduction", "label_smoothing"}
"""Those that mean the same to a function and to its module, where both have them."""


@dataclass(frozen=True, slots=True)
class BatchOfOneLoss:
    """A loss of a batch, asked for the batch of one example."""

    function: Function

    def __call__(self, f: Tensor, y: Tensor) -> Tensor:
        return self.function(f.unsqueeze(0), y.unsqueeze(0))


def takes_batches(loss: object) -> bool:
    """Whether a loss is one of batches: a module, or a function of `torch.nn.functional`."""
    inner = loss.func if isinstance(loss, partial) else loss
    own = getattr(inner, "__module__", None) == functional.__name__
    return isinstance(loss, nn.Module) or (callable(inner) and own)


def as_module(loss: Function | nn.Module) -> Function | nn.Module:
    """The module with a function's settings, where torch has both; all else is itself."""
    function, settings = loss, {}
    if isinstance(loss, partial) and not loss.args:
        function, settings = loss.func, loss.keywords
    kind = None if isinstance(loss, nn.Module) else MODULES.get(function)
    known = set(signature(kind).parameters) & SETTINGS if kind else set()
    return loss if kind is None or not set(settings) <= known else kind(**settings)


def loss_of_module(
    module: nn.Module | Function, outputs: Tensor | None = None, targets: Rows | None = None
) -> Loss:
    """What a loss of batches is for one example: its value for the batch of that example alone.

    `CrossEntropyLoss`, `MSELoss` and `BCEWithLogitsLoss` become the losses that ship.

    Args:
        module: The module, or a function of `torch.nn.functional`.
        outputs: The model's outputs for a few examples, where they are known: they and the targets
            say on which axis the classes stand.
        targets: Their targets.

    Raises:
        SpecError: E0582 where a mean over a batch is not one over its examples, E0587 for a module
            with parameters of its own.
    """
    module = as_module(module)
    soft = _probabilities(outputs, targets)
    _check_module(module, soft)
    _check_weight(module, outputs)
    ndim = outputs.ndim if outputs is not None else 2
    match module:
        case nn.CrossEntropyLoss() if _plain(module) and not soft:
            axis = _class_axis(outputs, targets)
            if module.reduction != "none" or ndim == 2:
                return _cross_entropy(module, axis)
        case nn.MSELoss(reduction="mean") if _plain(module):
            return MeanSquaredError()
        case nn.BCEWithLogitsLoss(reduction="mean", weight=None) if _plain(module):
            if module.pos_weight is None or module.pos_weight.ndim <= 1:
                return BinaryCrossEntropy(_numbers(module.pos_weight))
        case _:
            pass
    return AutodiffLoss(of_one_example(module, outputs, targets), shown_name(module))


def of_one_example(module: Function, outputs: Tensor | None, targets: Rows | None) -> Function:
    """A loss of batches as a function of one example: of the batch of it alone, wherever that runs."""
    return module if _takes_one(module, outputs, targets) else BatchOfOneLoss(module)


def _plain(module: nn.Module) -> bool:
    """Whether a module of torch computes what its class says: no subclass, no hook, no patch."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    own = type(module).__module__ == TORCHS
    return own and not hooked and "forward" not in vars(module)


def _check_module(module: nn.Module | Function, soft: bool) -> None:
    """Refuse what has no loss of an example.

    Raises:
        SpecError: E0582, E0587.
    """
    if not isinstance(module, nn.Module):
        return
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    if trained:
        raise refusal(
            Code.E0587,
            f"the loss `{type(module).__name__}` has a trainable parameter of its own, `{trained[0]}`",
            "make it a part of the model, or a constant: `loss.requires_grad_(False)`",
            notes=("curvatures are of the model's parameters",),
        )
    if not isinstance(module, nn.CrossEntropyLoss | nn.NLLLoss):
        return
    if module.weight is not None and module.reduction == "mean" and not soft:
        kind = type(module).__name__
        shown = (
            "`cv.CrossEntropy(weight=…)`, or " if isinstance(module, nn.CrossEntropyLoss) else ""
        )
        raise refusal(
            Code.E0582,
            f"`{kind}(weight=…)` divides a batch by the weights of its classes",
            f'use {shown}`reduction="sum"`',
            notes=("its mean is not the mean of the losses of single examples",),
        )


def _check_weight(module: nn.Module | Function, outputs: Tensor | None) -> None:
    """Weights are of an example's outputs, not of places in a batch.

    Raises:
        SpecError: E0582.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or outputs is None:
        return
    if weight.ndim < outputs.ndim or weight.shape[0] == 1:
        return
    raise refusal(
        Code.E0582,
        f"`{type(module).__name__}(weight=…)` has weights of shape {list(weight.shape)}, one for every "
        "example of a batch",
        "put the weight of an example into its target, and give a function of one example's outputs "
        "and target",
        notes=("the objective is the mean of losses that every example has by itself",),
    )


def _probabilities(outputs: Tensor | None, targets: Rows | None) -> bool:
    """Whether the targets are probabilities of classes, which torch's cross-entropy takes too."""
    if outputs is None or targets is None:
        return False
    return targets.is_floating_point() and targets.shape[1:] == outputs.shape[1:]


def _class_axis(outputs: Tensor | None, targets: Rows | None) -> int:
    """Torch's axis 1 wherever labels fit so; else the last, as for positions flattened by hand."""
    if outputs is None or targets is None or outputs.ndim < 3:
        return -1
    return 1 if targets.shape[1:] == outputs.shape[2:] else -1


def _cross_entropy(module: nn.CrossEntropyLoss, axis: int) -> CrossEntropy:
    positions = "mean" if module.reduction == "mean" else "sum"
    weight = _numbers(module.weight)
    return CrossEntropy(positions, module.label_smoothing, module.ignore_index, weight, axis)


def _takes_one(module: Function, outputs: Tensor | None, targets: Rows | None) -> bool:
    """Whether only one example without a batch axis can be read, not a batch of one."""
    if outputs is None or targets is None or not len(outputs) or not len(targets):
        return False
    f, y = outputs[0].detach(), targets[0]
    return _number(BatchOfOneLoss(module), f, y) is None and _number(module, f, y) is not None


def _number(function: Function, f: Tensor, y: Tensor) -> Tensor | None:
    """The function's value where it is one number."""
    try:
        with torch.no_grad():
            value = function(f, y)
        return value if value.numel() == 1 else None
    except Exception:
        # What it raises is told when the loss is tried on the task's first example.
        return None


def shown_name(module: nn.Module | Function) -> str:
    """A name for tables that holds the settings of modules of torch and of partial functions."""
    if isinstance(module, partial):
        shown = [
            *map(_shown, module.args),
            *(f"{k}={_shown(v)}" for k, v in module.keywords.items()),
        ]
        return f"{shown_name(module.func)}({', '.join(shown)})"
    if not isinstance(module, nn.Module):
        return full_name(module if hasattr(module, "__qualname__") else type(module))
    own: dict[str, Any] = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    own |= dict(module.named_parameters()) | dict(module.named_buffers())
    own.pop("training", None)
    shown = [f"{k}={_shown(v)}" for k, v in own.items() if v is not None]
    kind = type(module)
    whose = "" if kind.__module__ == TORCHS else f"{kind.__module__}."
    return f"{whose}{kind.__qualname__}({', '.join(shown)})"


def _shown(value: object) -> str:
    match value:
        case Tensor():
            if value.numel() <= SHOWN:
                return str(value.detach().tolist())
            return f"{list(value.shape)} {digest(value.detach())[:12]}"
        case str() | int() | float():
            return repr(value)
        case tuple() if all(isinstance(x, str | int | float) for x in value):
            return repr(value)
        case _:
            named = hasattr(value, "__qualname__")
            return full_name(value) if named else type(value).__name__


def _numbers(weight: Tensor | None) -> tuple[float, ...]:
    return () if weight is None else tuple(weight.reshape(-1).tolist())
