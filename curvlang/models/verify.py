"""What hooks cannot see, found out by trying: on a few examples, before any work is done.

A weight that is also used outside its layer's call, examples that influence each other, and a
forward pass that draws random numbers all leave `a` and `g` well-formed and wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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


def verify(model: nn.Module, X: Tensor, found: Trace, layers: Sequence[CoveredLayer]) -> None:
    """Check that gradients rebuilt from `a` and `g` are autograd's, example by example.

    Args:
        model: The model.
        X: The inputs that `found` was traced on, [B, …].
        found: A trace with its graph.
        layers: The covered layers, which own all trainable parameters.

    Raises:
        SpecError: E0403 for an output that changes from call to call, E0410 for examples that
            mix or a parameter that is used outside its layer.
    """
    _check_repeatable(model, X, found.output)
    columns = _directions(found.output)
    pulled = pull_back(found, columns)
    _check_separate(pulled, tolerance(found.output.dtype))
    _check_gradient(model, found, columns[:, :, 1], layers, pulled)


def _directions(f: Tensor) -> Tensor:
    """Two fixed columns without structure, [B, F, 2]; the first is zero after example 0."""
    B = f.shape[0]
    count = torch.arange(f.numel(), dtype=torch.float64, device=f.device).reshape(B, -1)
    wave = torch.cos(1.7 * count.square() + count + 0.3).to(f.dtype)
    first = torch.zeros_like(wave)
    first[0] = wave[0]
    return torch.stack([first, wave], -1)


def _check_repeatable(model: nn.Module, X: Tensor, output: Tensor) -> None:
    with torch.no_grad():
        again = model(X)
    if not _close(again, output.detach(), tolerance(output.dtype)):
        raise refusal(
            "E0403",
            "the model gives another output when it is called again on the same input",
            "call `model.eval()`, and take random numbers and counters out of `forward`",
        )


def _check_separate(pulled: Mapping[str, Tensor], limit: float) -> None:
    """A change at example 0's output must come from example 0 alone."""
    for layer, g_nrto in pulled.items():
        own = g_nrto[0, 0].abs().sum() + g_nrto[:, 1].abs().sum()
        others = g_nrto[1:, 0].abs().sum()
        if bool(others > limit * own):
            raise refusal(
                "E0410",
                f"examples influence each other through `{layer}`",
                "use a model that treats the examples of a batch independently",
                notes=("the loss of an example then depends on the batch it is in",),
            )


def _check_gradient(
    model: nn.Module,
    found: Trace,
    direction: Tensor,
    layers: Sequence[CoveredLayer],
    pulled: Mapping[str, Tensor],
) -> None:
    """Autograd's gradient of ⟨direction, f⟩ against Σ_nt g aᵀ, parameter by parameter."""
    given = inputs(found)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = (found.output.reshape(direction.shape) * direction).sum()
    direct = dict(
        zip(
            own,
            torch.autograd.grad(total, list(own.values()), allow_unused=True, retain_graph=True),
            strict=True,
        )
    )
    for layer in layers:
        g_nto = pulled[layer.name][:, 1]
        rebuilt = {
            layer.weight: torch.einsum("nto,nti->oi", g_nto, given[layer.name]),
            layer.bias: g_nto.sum((0, 1)),
        }
        for name in filter(None, (layer.weight, layer.bias)):
            wanted = direct[name]
            wanted = torch.zeros_like(own[name]) if wanted is None else wanted
            ours = rebuilt[name].reshape(wanted.shape)
            if not _close(ours, wanted, tolerance(wanted.dtype)):
                raise refusal(
                    "E0410",
                    f"`{name}` is also used outside the call of `{layer.name}`",
                    f"use the parameter only by calling `{layer.name}`, or freeze it",
                    notes=(
                        "the gradient rebuilt from the layer's inputs and outputs is not "
                        "the one that autograd gives",
                    ),
                )


def _close(x: Tensor, y: Tensor, limit: float) -> bool:
    """Whether the difference is below `limit` times the larger norm; never for NaN."""
    scale = torch.maximum(x.norm(), y.norm())
    return bool((x - y).norm() <= limit * scale)
