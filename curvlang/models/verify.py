"""What hooks and declarations cannot show, found out by trying: on a few examples, beforehand.

A weight that is also used outside its layer's call, examples that influence each other, and a
forward pass that draws random numbers all leave `a` and `g` well-formed and wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from curvlang.models.refusal import refusal
from curvlang.models.survey import CoveredLayer
from curvlang.models.trace import Trace, inputs, pull_back

EXAMPLES = 3
"""How many examples are tried; more than one, so that mixing shows."""


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference that rounding of a deep model explains: ten times √ε."""
    return 10 * math.sqrt(torch.finfo(dtype).eps)


def check_examples(model: nn.Module, X: Tensor, output: Tensor) -> None:
    """The output is the same when asked for again, and for an example alone.

    Args:
        model: The model.
        X: Inputs [B, …].
        output: What the model gave for them.

    Raises:
        SpecError: E0403 for an output that changes from call to call, E0410 for examples that
            influence each other.
    """
    limit = tolerance(output.dtype)
    with torch.no_grad():
        again, alone = model(X), model(X[:1])
    if not _close(again, output.detach(), limit):
        raise refusal(
            "E0403",
            "the model gives another output when it is called again on the same input",
            "call `model.eval()`, and take random numbers and counters out of `forward`",
        )
    if not _close(alone, output[:1].detach(), limit):
        raise refusal(
            "E0410",
            "the model's output for an example depends on the batch that the example is in",
            "use a model that treats the examples of a batch independently",
            notes=("the loss of one example is not defined otherwise",),
        )


def check_gradient(model: nn.Module, found: Trace, layers: Sequence[CoveredLayer]) -> None:
    """Gradients rebuilt from `a` and `g` are those that autograd gives, parameter by parameter.

    Args:
        model: The model.
        found: A trace with its graph.
        layers: The covered layers, which own all trainable parameters.

    Raises:
        SpecError: E0414 for a parameter that is also used outside its layer.
    """
    direction = _direction(found.output)
    pulled = pull_back(found, direction.reshape(direction.shape[0], -1, 1))
    given = inputs(found)
    direct = _gradients(model, (found.output * direction).sum())
    for layer in layers:
        g_nto = pulled[layer.name][:, 0]
        rebuilt = {
            layer.weight: torch.einsum("nto,nti->oi", g_nto, given[layer.name]),
            layer.bias: g_nto.sum((0, 1)),
        }
        for name in filter(None, (layer.weight, layer.bias)):
            wanted = direct[name]
            if not _close(rebuilt[name].reshape(wanted.shape), wanted, tolerance(wanted.dtype)):
                raise refusal(
                    "E0414",
                    f"`{name}` is also used outside the call of `{layer.name}`",
                    f"use the parameter only by calling `{layer.name}`, or freeze it",
                    notes=("autograd's gradient is not the one that `a` and `g` give",),
                )


def _direction(f: Tensor) -> Tensor:
    """Fixed numbers without structure in the shape of f."""
    count = torch.arange(f.numel(), dtype=torch.float64).reshape(f.shape)
    return torch.cos(1.7 * count.square() + count + 0.3).to(dtype=f.dtype, device=f.device)


def _gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(own.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for (name, p), gradient in zip(own.items(), found, strict=True)
    }


def _close(x: Tensor, y: Tensor, limit: float) -> bool:
    """Whether the difference is below `limit` times the larger norm; never for NaN."""
    scale = torch.maximum(x.norm(), y.norm())
    return bool((x - y).norm() <= limit * scale)
