"""Normalisations: s = γ ⊙ x̂ + β, a scale and a shift for every channel.

Only the sum Σ_t g ⊙ x̂ is a gradient; it is shown as two "positions", one for the scale and one for
the shift, so that Σ_t g[n,t,o] a[n,t,i] is the gradient by (channel o, scale or shift i).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from curvlang.models.layers.layer import Input, Layer, Part, entries, parameter

Normalised = Callable[[nn.Module, Tensor], Tensor]
"""The module and its input to x̂, the input without scale and shift."""


class Norm(Layer):
    """A layer whose parameters are a scale and a shift for every channel.

    Args:
        name: The type's name.
        normalised: x̂.
        channels_last: Whether the parameters stand on the last axes, else on the second.
    """

    name = "Norm"
    factored = False

    def __init__(self, name: str, normalised: Normalised, *, channels_last: bool) -> None:
        self.kind = name
        self.normalised = normalised
        self.channels_last = channels_last
        self.folds = channels_last  # type: ignore[misc]

    def refuses(self, module: nn.Module) -> str | None:
        """Statistics of the batch mix its examples."""
        if getattr(module, "running_mean", True) is None and isinstance(module, _BATCH):
            return "it has no running statistics, so that examples of a batch mix"
        return None

    def parts(self, module: nn.Module) -> tuple[Part, ...]:
        """One column of scales; the shifts are the bias."""
        weight = parameter(module, self.weight)
        places = entries(weight.numel(), weight)
        return (Part(places.unsqueeze(1), places),)

    def inputs(self, module: nn.Module, x: Tensor, shape: torch.Size) -> tuple[Input, ...]:
        """The scale's column: [B, 1, 1]."""
        return (parameter(module, self.weight).new_ones(x.shape[0], 1, 1),)

    def outputs(self, module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """The scales' gradient Σ_t g ⊙ x̂, [B, 1, C]."""
        return (self._scales(module, x, cotangent).unsqueeze(1),)

    def a(self, module: nn.Module, x: Tensor, shape: torch.Size, columns: str) -> tuple[Input, ...]:
        """One "position" for the scale, one for the shift: the identity over them."""
        count = 2 if columns == "joint" else 1
        weight = parameter(module, self.weight)
        unit = torch.eye(count, dtype=weight.dtype, device=weight.device)
        return (unit.expand(x.shape[0], count, count),)

    def g(
        self, module: nn.Module, x: Tensor, cotangent: Tensor, columns: str
    ) -> tuple[Tensor, ...]:
        """[B, 2, C]: gradients by scales and shifts."""
        found = []
        if columns in ("joint", "none"):
            found.append(self._scales(module, x, cotangent))
        if columns in ("joint", "only"):
            found.append(self._channels(module, cotangent).sum(1))
        return (torch.stack(found, 1),)

    def _scales(self, module: nn.Module, x: Tensor, cotangent: Tensor) -> Tensor:
        plain = self._channels(module, self.normalised(module, x))
        rows = self._channels(module, cotangent)
        # Cotangents of several columns come as further examples.
        times = rows.shape[0] // plain.shape[0]
        return (rows * plain.repeat(times, 1, 1)).sum(1)

    def _channels(self, module: nn.Module, x: Tensor) -> Tensor:
        """[B, T, C] with the parameters' axes as C."""
        size = parameter(module, self.weight).numel()
        if not self.channels_last and x.dim() > 1:
            x = x.movedim(1, -1)
        return x.reshape(x.shape[0], -1, size)


_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _layer_norm(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, nn.LayerNorm)
    return functional.layer_norm(x, list(module.normalized_shape), None, None, module.eps)


def _rms_norm(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, nn.RMSNorm)
    return functional.rms_norm(x, list(module.normalized_shape), None, module.eps)


def _group_norm(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, nn.GroupNorm)
    return functional.group_norm(x, module.num_groups, None, None, module.eps)


def _batch_norm(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, _BATCH)
    return functional.batch_norm(
        x, module.running_mean, module.running_var, None, None, False, 0.0, module.eps
    )


LAYER_NORM = Norm("LayerNorm", _layer_norm, channels_last=True)
RMS_NORM = Norm("RMSNorm", _rms_norm, channels_last=True)
GROUP_NORM = Norm("GroupNorm", _group_norm, channels_last=False)
BATCH_NORM = Norm("BatchNorm", _batch_norm, channels_last=False)
