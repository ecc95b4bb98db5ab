"""Difference quotients of plain gradients: what second derivatives of a model are checked against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from curvlang.models.derivatives import reverse
from curvlang.models.derivatives.held import Constants
from curvlang.models.execution.calls import exhausted
from curvlang.models.execution.copies import copied
from curvlang.models.losses.loss import Loss
from curvlang.models.tracing.blocks import trainable

STEPS = (1e-5, 1e-6, 1e-7)
"""Steps of the difference quotient in float64, relative to the parameters. A kink between its ends is
found at one direction and step and not at another; a wrong product at all of them."""
COARSE = (1e-3, 3e-4, 1e-4, 3e-3, 1e-2)
"""Further steps for a model that rounds to fewer digits inside than its parameters have."""
COARSE_LIMIT = 1e-2
"""The relative difference that such steps and such rounding explain."""

AWAY = 1e-2
"""How far from the parameters a second point is, relative to them."""


class Reference:
    """Differences of plain gradients, on a copy in float64 where it computes the same.

    Args:
        model: The model.
        loss: The loss.
        few: A few examples.
        slope: The model's own gradient on them.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, few: tuple[Tensor, Tensor], slope: Tensor
    ) -> None:
        self.loss = loss
        self.dtype = slope.dtype
        self.limit = limit_of(slope.dtype)
        self.size = float(slope.double().norm())
        self.model, self.few = model, few
        self.steps: tuple[float, ...] = STEPS
        found, _ = tried(lambda: self._copied(model, few, slope))
        if (found is None or found > self.limit) and slope.dtype != torch.float64:
            # In its own precision a quotient has three digits.
            self.model, self.few, self.steps, self.limit = model, few, (1e-2, 3e-3), 0.1
        elif self._noise() > self.limit / 2:
            # A part of the model computes in float32, as norms of language models do.
            self.steps, self.limit = (*STEPS, *COARSE), max(self.limit, COARSE_LIMIT)

    def _copied(self, model: nn.Module, few: tuple[Tensor, Tensor], slope: Tensor) -> float:
        """Take a copy in float64; how far its gradient is from the model's."""
        made = copied(model).to(torch.float64)
        given = tuple(t.double() if t.is_floating_point() else t for t in few)
        own = reverse.gradient(made, self.loss, given[0], given[1])
        gap = relative(slope, own)
        if gap <= self.limit:
            self.model, self.few = made, (given[0], given[1])
        return gap

    def _noise(self) -> float:
        """How far quotients with two small steps in one direction are apart: what rounding leaves of them."""
        own = list(trainable(self.model).values())
        v = direction(own, torch.Generator().manual_seed(len(self.steps)))
        first, second = (self.quotient(v, step) for step in self.steps[:2])
        return relative(first, second.double(), self.size * 1e-3)

    def directions(self) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Steps with two vectors of about the parameters' size, other ones for each."""
        own = list(trainable(self.model).values())
        for number, step in enumerate(self.steps):
            generator = torch.Generator().manual_seed(number)
            yield step, direction(own, generator), direction(own, generator)

    def quotient(self, v: Tensor, step: float) -> Tensor:
        """(∇L(θ + h v) − ∇L(θ − h v)) / 2h."""
        own = list(trainable(self.model).values())
        held = [p.detach().clone() for p in own]
        ends, constants = [], Constants()
        reverse.gradient(self.model, self.loss, *self.few, constants)
        try:
            for h in (step, -step):
                for p, old, w in zip(own, held, v.split([p.numel() for p in own]), strict=True):
                    p.data.copy_(old + h * w.reshape(p.shape).to(old))
                ends.append(reverse.gradient(self.model, self.loss, *self.few, constants.again()))
        finally:
            for p, old in zip(own, held, strict=True):
                p.data.copy_(old)
        return (ends[0] - ends[1]) / (2 * step)


def direction(own: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Random numbers of about the size of every parameter, in float64."""
    parts = []
    for p in own:
        drawn = torch.randn(p.numel(), generator=generator, dtype=torch.float64).to(p.device)
        size = float(p.detach().double().square().mean().sqrt()) if p.numel() else 0.0
        parts.append(drawn * (size or 1.0))
    return torch.cat(parts)


@contextmanager
def moved(model: nn.Module) -> Iterator[None]:
    """Every parameter a hundredth of its size away, until the block ends: points where all is smooth."""
    own = list(trainable(model).values())
    held = [p.detach().clone() for p in own]
    away = AWAY * direction(own, torch.Generator().manual_seed(0))
    try:
        for p, w in zip(own, away.split([p.numel() for p in own]), strict=True):
            p.data.add_(w.reshape(p.shape).to(p))
        yield
    finally:
        for p, old in zip(own, held, strict=True):
            p.data.copy_(old)


def relative(found: Tensor, wanted: Tensor, floor: float = 0.0) -> float:
    """|found − wanted| by the larger of their norms and a floor; infinite where there is NaN."""
    scale = max(float(found.norm()), float(wanted.norm()), floor)
    gap = float((found.double() - wanted.double()).norm())
    if not math.isfinite(gap):
        return math.inf
    return gap / scale if scale else 0.0


def tried(gap: Callable[[], float]) -> tuple[float | None, Exception | None]:
    """How far off a way is; what it raised where it does not run."""
    try:
        return gap(), None
    except Exception as error:
        if exhausted(error):
            raise
        return None, error


def limit_of(dtype: torch.dtype) -> float:
    """The relative difference that rounding of a deep model explains."""
    return 1e-4 if dtype == torch.float64 else 1e-2
