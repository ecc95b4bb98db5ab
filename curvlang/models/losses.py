"""Losses per example, with their gradient, Hessian and curvature factor at the model's output.

Shapes: the model's output `f [B, …]` is flattened to F numbers per example, row-major; `y` are
the B targets. A factor `S [B, F, R]` has S Sᵀ = ∇²_f ℓ for every example, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional

from curvlang.models.loss import Loss, flat, identity, show_dtype, show_shape, unfit, uniform
from curvlang.models.refusal import refusal
from curvlang.models.user_loss import AutodiffLoss, Function

IGNORED = -100
"""The label of a position that takes no part (padding), as in `torch.nn.CrossEntropyLoss`."""


@dataclass(frozen=True, slots=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of class labels; classes are the output's last axis.

    `f` is [B, C] with `y` [B], or [B, T, C] (more position axes likewise) with `y` [B, T]. The
    loss of an example is the sum over its positions, or their mean; positions labelled -100 take
    no part.

    Args:
        positions: `sum` or `mean` over the positions of an example.
    """

    name: ClassVar[str] = "cross_entropy"
    positions: str = "sum"

    def __post_init__(self) -> None:
        """Refuse another word than `sum` or `mean`."""
        if self.positions not in ("sum", "mean"):
            raise refusal(
                "E0412",
                f"`positions` is `sum` or `mean`, not `{self.positions}`",
                'write `CrossEntropy(positions="sum")`',
            )

    def validate(self, shape: Sequence[int], y: Tensor, dtype: torch.dtype) -> None:
        """Labels are int64, one for every position, in 0…C-1."""
        if len(shape) < 2:
            raise unfit(self, f"outputs of shape {show_shape(shape)} have no class axis", "[B, C]")
        if y.dtype != torch.int64:
            raise unfit(
                self,
                f"labels are `{show_dtype(y.dtype)}`, not class numbers (`int64`)",
                "class numbers, `y.long()`",
            )
        if y.ndim != len(shape) - 1 or tuple(y.shape[1:]) != tuple(shape[1:-1]):
            raise unfit(
                self,
                f"outputs of shape {show_shape(shape)} do not go with labels of shape "
                f"{show_shape(y.shape)}",
                f"labels of shape {show_shape(shape[:-1])}; classes are the outputs' last axis",
            )
        self._check_range(y, shape[-1], allow_ignored=len(shape) > 2)

    def _check_range(self, y: Tensor, classes: int, *, allow_ignored: bool) -> None:
        wrong = (y < 0) | (y >= classes)
        if allow_ignored:
            wrong &= y != IGNORED
        if bool(wrong.any()):
            first = int(flat(wrong).any(1).nonzero()[0])
            value = int(y[wrong][0])
            raise unfit(
                self,
                f"{int(wrong.sum())} labels lie outside 0…{classes - 1} "
                f"(first: {value} at example {first})",
                f"labels in 0…{classes - 1}, or a model with an output for every class",
            )

    def _weights(self, f: Tensor, y: Tensor) -> Tensor:
        """The weight of every position, [B, T]: 0 where ignored."""
        counted = (flat(y) != IGNORED).to(f.dtype)
        if self.positions == "mean":
            return counted / counted.sum(1, keepdim=True).clamp_min(1)
        return counted

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """Σ_t w_t (logsumexp f_t − f_{t, y_t})."""
        labels = flat(y).clamp_min(0).unsqueeze(-1)
        picked = torch.log_softmax(_logits(f), -1).gather(-1, labels).squeeze(-1)
        return -(self._weights(f, y) * picked).sum(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """w_t (p_t − onehot(y_t))."""
        p = torch.softmax(_logits(f), -1)
        hot = _one_hot(flat(y).clamp_min(0), p)
        return ((p - hot) * self._weights(f, y).unsqueeze(-1)).flatten(1)

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """diag(p) − p pᵀ at every position, block-diagonal over positions."""
        p = torch.softmax(_logits(f), -1)
        blocks = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        return _block_diagonal(blocks * self._weights(f, y)[..., None, None])

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """S = diag(√p) − p √pᵀ at every position: S Sᵀ = diag(p) − p pᵀ because Σ p = 1."""
        log_p = torch.log_softmax(_logits(f), -1)
        root = torch.exp(0.5 * log_p)
        blocks = torch.diag_embed(root) - log_p.exp().unsqueeze(-1) * root.unsqueeze(-2)
        return _block_diagonal(blocks * self._weights(f, y).sqrt()[..., None, None])

    def sample(self, f: Tensor, y: Tensor, generator: Generator, samples: int) -> Tensor:
        """√w_t (p_t − onehot(z_t)) with z_t drawn from p_t, independently at every position."""
        p = torch.softmax(_logits(f), -1)
        B, T, C = p.shape
        steps = p.to(torch.float64).cumsum(-1)
        u = uniform((B, T, samples), generator, f) * steps[..., -1:]
        z = torch.searchsorted(steps, u, right=True).clamp_max(C - 1)
        columns = p.unsqueeze(2) - _one_hot(z, p)
        columns = columns * (self._weights(f, y) / samples).sqrt()[..., None, None]
        return columns.transpose(2, 3).reshape(B, T * C, samples)


@dataclass(frozen=True, slots=True)
class MeanSquaredError(Loss):
    """Mean over an example's outputs of the squared error, as `torch.nn.MSELoss` (no ½)."""

    name: ClassVar[str] = "mse"

    def validate(self, shape: Sequence[int], y: Tensor, dtype: torch.dtype) -> None:
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

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """√(2/F) I."""
        return identity(f) * math.sqrt(2 / flat(f).shape[1])

    def sample(self, f: Tensor, y: Tensor, generator: Generator, samples: int) -> Tensor:
        """√(2/F) times standard normal numbers."""
        B, F = flat(f).shape
        normal: Tensor = torch.special.ndtri(uniform((B, F, samples), generator, f))
        return normal.to(f.dtype) * math.sqrt(2 / (F * samples))


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy(Loss):
    """Mean over outputs of the binary cross-entropy of logits; targets in [0, 1]."""

    name: ClassVar[str] = "bce_with_logits"

    def validate(self, shape: Sequence[int], y: Tensor, dtype: torch.dtype) -> None:
        """Targets have the outputs' shape and precision and lie in [0, 1]."""
        _check_targets(self, shape, y, dtype)
        wrong = (y < 0) | (y > 1)
        if bool(wrong.any()):
            first = int(flat(wrong).any(1).nonzero()[0])
            raise unfit(
                self,
                f"{int(wrong.sum())} targets lie outside [0, 1] "
                f"(first: {float(y[wrong][0]):g} at example {first})",
                "probabilities in [0, 1]",
            )

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """Mean over outputs of log(1 + eᶠ) − y f; beyond f = 50, e⁻ᶠ is below any rounding."""
        z = flat(f)
        return (functional.softplus(z, threshold=50.0) - flat(y) * z).mean(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """(σ(f) − y) / F."""
        z = flat(f)
        return (torch.sigmoid(z) - flat(y)) / z.shape[1]

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """diag(σ(f) σ(−f)) / F."""
        return torch.diag_embed(_variance(f) / flat(f).shape[1])

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """diag(√(σ(f) σ(−f) / F))."""
        return torch.diag_embed((_variance(f) / flat(f).shape[1]).sqrt())

    def sample(self, f: Tensor, y: Tensor, generator: Generator, samples: int) -> Tensor:
        """(σ(f) − z)/√F with z drawn from σ(f): 1/√F, since the Hessian has 1/F, not 1/F²."""
        p = torch.sigmoid(flat(f))
        B, F = p.shape
        z = (uniform((B, F, samples), generator, f) < p.unsqueeze(-1)).to(f.dtype)
        return (p.unsqueeze(-1) - z) * math.sqrt(1 / (F * samples))


LOSSES: Mapping[str, Loss] = {
    loss.name: loss for loss in (CrossEntropy(), MeanSquaredError(), BinaryCrossEntropy())
}
"""Every loss by its name in a spec."""


def loss_named(loss: str | Loss | Function) -> Loss:
    """The loss of that name; a `Loss` is itself, a function is differentiated by autodiff.

    Raises:
        SpecError: E0411 for a name that is not in `LOSSES`.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        return AutodiffLoss(loss, f"{loss.__module__}.{loss.__qualname__}")
    if loss not in LOSSES:
        known = ", ".join(f"`{name}`" for name in LOSSES)
        raise refusal("E0411", f"there is no loss `{loss}`", f"use one of {known}")
    return LOSSES[loss]


def _logits(f: Tensor) -> Tensor:
    """[B, T, C]; T is 1 where there are no positions."""
    return f.reshape(f.shape[0], -1, f.shape[-1])


def _variance(f: Tensor) -> Tensor:
    """σ(f) σ(−f), [B, F]: keeps its digits where σ(f) rounds to 1."""
    return torch.sigmoid(flat(f)) * torch.sigmoid(-flat(f))


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """One-hot vectors on a new last axis of the size of `like`'s last axis."""
    classes = torch.arange(like.shape[-1], device=labels.device)
    return (labels.unsqueeze(-1) == classes).to(like.dtype)


def _block_diagonal(blocks: Tensor) -> Tensor:
    """[B, T, C, C] to [B, T·C, T·C], zero between different positions."""
    B, T, C, _ = blocks.shape
    if T == 1:
        return blocks.squeeze(1)
    eye = torch.eye(T, dtype=blocks.dtype, device=blocks.device)
    return torch.einsum("btcd,ts->btcsd", blocks, eye).reshape(B, T * C, T * C)


def _check_targets(loss: Loss, shape: Sequence[int], y: Tensor, dtype: torch.dtype) -> None:
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
