"""Softmax cross-entropy over classes and over positions, as `torch.nn.CrossEntropyLoss`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.plain_arguments import keyworded
from curvlang.diagnostics.refusal import refusal
from curvlang.language.checking.arguments import OPEN, settle
from curvlang.language.registry import LOSSES
from curvlang.models.data.rows import Rows, odd_entries
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.loss import (
    Loss,
    flat,
    show_dtype,
    show_shape,
    unfit,
)


@keyworded
@dataclass(frozen=True, slots=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of class labels; classes are the output's last axis, or its axis 1.

    `f` is [B, C] with `y` [B], or [B, T, C] (more position axes likewise) with `y` [B, T]; with
    `axis = 1` it is [B, C, T], as torch's own losses take it. With
    ε = `label_smoothing` and class weights v the loss of a position is −Σ_c q_c log p_c, where
    q_c = (1 − ε) v_y [c = y] + ε/C v_c. The loss of an example is the sum over its positions, or
    their mean weighted with v_y: `torch.nn.CrossEntropyLoss` on that example alone.

    Args:
        positions: `sum` or `mean` over the positions of an example.
        label_smoothing: ε, from 0 to 1.
        ignore_index: The label of positions that take no part.
        weight: v, one number for every class; empty for 1 each.
        axis: Where the classes stand in the outputs: -1 (last) or 1 (behind the batch).
    """

    name: ClassVar[str] = "cross_entropy"
    positions: str = OPEN
    label_smoothing: float = OPEN
    ignore_index: int = OPEN
    weight: tuple[float, ...] = OPEN
    axis: int = -1

    def __post_init__(self) -> None:
        """Refuse values that leave no loss; weights may come as a tensor or a list."""
        settle(self, self.name, LOSSES[self.name])
        if self.axis not in (-1, 1):
            raise refusal(
                Code.E0412, f"`axis` is -1 or 1, not `{self.axis}`", 'write `CrossEntropy("sum")`'
            )

    def validate(self, shape: Sequence[int], y: Rows, dtype: torch.dtype) -> None:
        """Labels are int64, one for every position, in 0…C-1."""
        if len(shape) < 2:
            raise unfit(self, f"outputs of shape {show_shape(shape)} have no class axis", "[B, C]")
        if y.dtype != torch.int64:
            raise unfit(
                self,
                f"labels are `{show_dtype(y.dtype)}`, not class numbers (`int64`)",
                "`torch.nn.CrossEntropyLoss()` as the loss: it takes probabilities of classes too"
                if y.is_floating_point() and tuple(y.shape[1:]) == tuple(shape[1:])
                else "class numbers, `y.long()`",
            )
        wanted = (shape[0], *(shape[1:-1] if self.axis == -1 else shape[2:]))
        if tuple(y.shape[1:]) != wanted[1:]:
            where = "the outputs' last axis" if self.axis == -1 else "axis 1 of the outputs"
            raise unfit(
                self,
                f"outputs of shape {show_shape(shape)} do not go with labels of shape "
                f"{show_shape(y.shape)}",
                f"labels of shape {show_shape(wanted)}; classes are {where}"
                + (self._other(shape, y) or _converted(shape, y, self.axis)),
            )
        self._check_weight(shape)
        self._check_range(y, shape[self.axis], with_positions=len(shape) > 2)

    def _other(self, shape: Sequence[int], y: Rows) -> str:
        """The way to say that the classes stand elsewhere, where the labels say that they do."""
        if self.axis == -1 and len(shape) > 2 and tuple(y.shape[1:]) == tuple(shape[2:]):
            return ", or axis 1 where the loss is `torch.nn.CrossEntropyLoss()`"
        return ""

    def _check_weight(self, shape: Sequence[int]) -> None:
        classes = shape[self.axis]
        if self.weight and len(self.weight) != classes:
            raise unfit(
                self,
                f"{len(self.weight)} class weights for {classes} classes",
                f"{classes} weights",
            )
        if self.weight and self.positions == "mean" and len(shape) == 2:
            raise unfit(
                self,
                "the mean over the one position of an example divides its class weight out",
                '`positions="sum"`, which keeps it',
            )

    def _check_range(self, y: Rows, classes: int, *, with_positions: bool) -> None:
        def is_odd(y: Tensor) -> Tensor:
            ignored = y == self.ignore_index
            wrong = (y < 0) | (y >= classes)
            return wrong & ~ignored if with_positions else wrong | ignored

        what = f"labels of {classes} classes, {self.ignore_index} left out: {with_positions}"
        found = odd_entries(y, what, is_odd)
        if found is None:
            return
        value = int(found.value)
        if value == self.ignore_index and 0 <= value < classes:
            raise unfit(
                self,
                f"example {found.row} has the label {value}, which `ignore_index` leaves out",
                "examples that have a loss, or another `ignore_index`",
            )
        raise unfit(
            self,
            f"{found.count} labels lie outside 0…{classes - 1} "
            f"(first: {value} at example {found.row})",
            f"labels in 0…{classes - 1}, or a model with an output for every class",
        )

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """−Σ_t w_t Σ_c q_tc log p_tc; without smoothing only the label's log p is read."""
        log_p = torch.log_softmax(self.logits(f), -1)
        labels = self._labels(y)
        own = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        v = self._class_weights(f)
        own = own if v is None else own * v[labels]
        if self.label_smoothing:
            all_ = log_p.sum(-1) if v is None else log_p @ v
            own = torch.lerp(own, all_ / log_p.shape[-1], self.label_smoothing)
        return -(self._weights(f, y) * own).sum(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        """w_t (p_t Σ_c q_tc − q_t)."""
        p = torch.softmax(self.logits(f), -1)
        q = self._masses(f, y)
        slope = p * q.sum(-1, keepdim=True) - q
        return self._outputs(slope * self._weights(f, y).unsqueeze(-1))

    def hessian(self, f: Tensor, y: Tensor) -> Tensor:
        """W_t (diag(p) − p pᵀ), W_t = w_t Σ_c q_tc, block-diagonal over positions."""
        p = torch.softmax(self.logits(f), -1)
        blocks = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        return self._matrices(blocks * self._scale(f, y)[..., None, None])

    def hessian_product(self, f: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """W_t (p ∘ u − p (pᵀ u)): no matrix C × C."""
        p = torch.softmax(self.logits(f), -1)
        pu = p * self.logits(u.reshape(f.shape))
        found = pu - p * pu.sum(-1, keepdim=True)
        return self._outputs(found * self._scale(f, y).unsqueeze(-1))

    def factor(self, f: Tensor, y: Tensor) -> Tensor:
        """S = √W_t (diag(√p) − p √pᵀ): S Sᵀ = W_t (diag(p) − p pᵀ) because Σ p = 1."""
        log_p = torch.log_softmax(self.logits(f), -1)
        root = torch.exp(0.5 * log_p)
        blocks = torch.diag_embed(root) - log_p.exp().unsqueeze(-1) * root.unsqueeze(-2)
        return self._matrices(blocks * self._scale(f, y).sqrt()[..., None, None])

    def sample(self, f: Tensor, y: Tensor, draws: Draws, samples: int) -> Tensor:
        """√W_t (p_t − onehot(z_t)) with z_t drawn from p_t, independently at every position."""
        p = torch.softmax(self.logits(f), -1)
        B, T, C = p.shape
        steps = p.to(torch.float64).cumsum(-1)
        u = draws.uniform(B, T, samples, f.device) * steps[..., -1:]
        z = torch.searchsorted(steps, u, right=True).clamp_max(C - 1)
        columns = p.unsqueeze(2) - _one_hot(z, p)
        columns = columns * (self._scale(f, y) / samples).sqrt()[..., None, None]
        return self._outputs(columns.transpose(2, 3))

    def logits(self, f: Tensor) -> Tensor:
        """[B, T, C]; T is 1 where there are no positions."""
        last = f if self.axis == -1 else f.movedim(1, -1)
        return last.reshape(f.shape[0], -1, last.shape[-1])

    def _outputs(self, x: Tensor) -> Tensor:
        """[B, T, C, …] as [B, F, …], in the order of the model's outputs."""
        return (x if self.axis == -1 else x.transpose(1, 2)).flatten(1, 2)

    def _matrices(self, blocks: Tensor) -> Tensor:
        """[B, T, C, C] to [B, F, F], zero between different positions."""
        found = _block_diagonal(blocks)
        if self.axis == -1:
            return found
        B, T, C, _ = blocks.shape
        apart = found.reshape(B, T, C, T, C).permute(0, 2, 1, 4, 3)
        return apart.reshape(B, C * T, C * T)

    def _labels(self, y: Tensor) -> Tensor:
        """[B, T], 0 where ignored: a class like any other, whose weight is 0 there."""
        return torch.where(flat(y) == self.ignore_index, 0, flat(y))

    def _class_weights(self, f: Tensor) -> Tensor | None:
        if not self.weight:
            return None
        return torch.tensor(self.weight, dtype=f.dtype, device=f.device)

    def _weights(self, f: Tensor, y: Tensor) -> Tensor:
        """w_t, the weight of every position, [B, T]: 0 where ignored."""
        counted = (flat(y) != self.ignore_index).to(f.dtype)
        if self.positions == "sum":
            return counted
        v = self._class_weights(f)
        total = (counted if v is None else counted * v[self._labels(y)]).sum(1, keepdim=True)
        return torch.where(total > 0, counted / torch.where(total > 0, total, 1), 0)

    def _masses(self, f: Tensor, y: Tensor) -> Tensor:
        """q_tc, [B, T, C]."""
        like = self.logits(f)
        v = self._class_weights(f)
        q = (1 - self.label_smoothing) * _one_hot(self._labels(y), like)
        q = q + self.label_smoothing / like.shape[-1]
        return q if v is None else q * v

    def _scale(self, f: Tensor, y: Tensor) -> Tensor:
        """W_t = w_t Σ_c q_tc, [B, T], without q."""
        w = self._weights(f, y)
        v = self._class_weights(f)
        return (
            w if v is None else w * torch.lerp(v[self._labels(y)], v.mean(), self.label_smoothing)
        )


def _converted(shape: Sequence[int], y: Rows, axis: int) -> str:
    """How labels of a known other form become class numbers; empty where the form is not known."""
    if tuple(y.shape[1:]) == tuple(shape[1:]):
        return f": of one-hot vectors, `y.argmax({axis})`"
    if len(shape) == 2 and tuple(y.shape[1:]) == (1,):
        return ": `y[:, 0]`"
    return ""


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
