"""Losses that are a mean over an example's outputs: squared error, and binary cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from curvlang.diagnostics.plain_arguments import keyworded
from curvlang.language.checking.arguments import OPEN, settle
from curvlang.language.registry import LOSSES
from curvlang.models.data.rows import Rows, odd_entries
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.loss import (
    Loss,
    flat,
    identity,
    show_dtype,
    show_shape,
    unfit,
)


@dataclass(frozen=True, slots=True)
class MeanSquaredError(Loss):
    """Mean over an example's outputs of the squared error, as `torch.nn.MSELoss` (no ½)."""

    name: ClassVar[str] = "mse"

    def validate(self, shape: Sequence[int], y: Rows, dtype: torch.dtype) -> None:
        """Targets have the outputs' shape and precision."""
        _check_targets(self, shape, y, dtype)

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """Mean over outputs of (f − y)²."""
        return (flat(f) - flat(y)).square().mean(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """2/F (f − y)."""
        return (flat(f) - flat(y)).mul(2 / flat(f).shape[1])

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """2/F I."""
        return identity(f) * (2 / flat(f).shape[1])

    def hessian_product(self, f: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """2/F u."""
        return flat(u) * (2 / flat(f).shape[1])

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """√(2/F) I."""
        return identity(f) * math.sqrt(2 / flat(f).shape[1])

    def sample(self, f: Tensor, y: Tensor, draws: Draws, samples: int) -> Tensor:
        """√(2/F) times standard normal numbers."""
        B, F = flat(f).shape
        normal: Tensor = torch.special.ndtri(draws.uniform(B, F, samples, f.device))
        return normal.to(f.dtype) * math.sqrt(2 / (F * samples))


@keyworded
@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy(Loss):
    """Mean over outputs of the binary cross-entropy of logits; targets in [0, 1], soft ones too.

    With u = `pos_weight` the loss of an output is −u y log σ(f) − (1 − y) log σ(−f), as
    `torch.nn.BCEWithLogitsLoss`.

    Args:
        pos_weight: u, one number for every entry of the outputs' last axis, or one for all; empty
            for 1.
    """

    name: ClassVar[str] = "bce_with_logits"
    pos_weight: tuple[float, ...] = OPEN

    def __post_init__(self) -> None:
        """Refuse weights that leave no loss; they may come as a tensor or a list."""
        settle(self, self.name, LOSSES[self.name])

    def validate(self, shape: Sequence[int], y: Rows, dtype: torch.dtype) -> None:
        """Targets have the outputs' shape and precision and lie in [0, 1]."""
        _check_targets(self, shape, y, dtype)
        if self.pos_weight and len(self.pos_weight) not in (1, shape[-1]):
            raise unfit(
                self,
                f"{len(self.pos_weight)} weights for {shape[-1]} outputs",
                f"1 weight or {shape[-1]}",
            )
        found = odd_entries(y, "targets in [0, 1]", lambda y: (y < 0) | (y > 1))
        if found is not None:
            raise unfit(
                self,
                f"{found.count} targets lie outside [0, 1] "
                f"(first: {found.value:g} at example {found.row})",
                "probabilities in [0, 1]",
            )

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """Mean over outputs of u y log(1 + e⁻ᶠ) + (1 − y) log(1 + eᶠ).

        Beyond f = ±50 the smaller exponential is below any rounding.
        """
        z = flat(f)
        up, down = (functional.softplus(s * z, threshold=50.0) for s in (-1, 1))
        return (self._positive(f, y) * up + (1 - flat(y)) * down).mean(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """((1 − y) σ(f) − u y σ(−f)) / F."""
        z = flat(f)
        slope = (1 - flat(y)) * torch.sigmoid(z) - self._positive(f, y) * torch.sigmoid(-z)
        return slope / z.shape[1]

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """diag((1 − y + u y) σ(f) σ(−f)) / F."""
        return torch.diag_embed(self._curvature(f, y))

    def hessian_product(self, f: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """The diagonal times `u`."""
        return self._curvature(f, y) * flat(u)

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """diag(√((1 − y + u y) σ(f) σ(−f) / F))."""
        return torch.diag_embed(self._curvature(f, y).sqrt())

    def sample(self, f: Tensor, y: Tensor, draws: Draws, samples: int) -> Tensor:
        """√((1 − y + u y)/F) (σ(f) − z), z drawn from σ(f): the Hessian has 1/F, not 1/F²."""
        p = torch.sigmoid(flat(f))
        B, F = p.shape
        z = (draws.uniform(B, F, samples, f.device) < p.unsqueeze(-1)).to(f.dtype)
        scale = (self._mass(f, y) / (F * samples)).sqrt()
        return (p.unsqueeze(-1) - z) * scale.unsqueeze(-1)

    def _positive(self, f: Tensor, y: Tensor) -> Tensor:
        """Weighted positive part, u y, [B, F]."""
        if not self.pos_weight:
            return flat(y)
        u = torch.tensor(self.pos_weight, dtype=f.dtype, device=f.device)
        return flat(y * u)

    def _mass(self, f: Tensor, y: Tensor) -> Tensor:
        """1 − y + u y."""
        return 1 - flat(y) + self._positive(f, y)

    def _curvature(self, f: Tensor, y: Tensor) -> Tensor:
        """Λ's diagonal, [B, F]; σ(f) σ(−f) keeps its digits where σ(f) rounds to 1."""
        z = flat(f)
        return self._mass(f, y) * torch.sigmoid(z) * torch.sigmoid(-z) / z.shape[1]


def _check_targets(loss: Loss, shape: Sequence[int], y: Rows, dtype: torch.dtype) -> None:
    """Targets of a regression: same shape as the outputs, same precision."""
    if y.ndim != len(shape) or tuple(y.shape[1:]) != tuple(shape[1:]):
        raise unfit(
            loss,
            f"outputs of shape {show_shape(shape)} do not go with targets of shape "
            f"{show_shape(y.shape)}",
            f"targets of shape {show_shape(shape)}; nothing is broadcast",
        )
    if y.dtype != dtype:
        raise unfit(
            loss,
            f"targets are `{show_dtype(y.dtype)}` where the outputs are `{show_dtype(dtype)}`",
            f"`y.to(torch.{show_dtype(dtype)})`",
        )
