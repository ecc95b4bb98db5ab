"""Where the parameters of a task's model come from, and how fresh models like it are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.models.execution.copies import copied, unwrapped

Build = Callable[[int], nn.Module]
"""A fresh, untrained model for a seed: what retraining starts from."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model's parameters came from, as every result states it.

    Args:
        text: For people.
        trained: Whether the model is studied as it is; otherwise it is trained first where a command
            trains models.
        seed: Of the initialisation of a model that was trained here.
        instead: How to have a model that is trained here, for messages.
    """

    text: str
    trained: bool = True
    seed: int | None = None
    instead: str = "make the task with `cv.task(…, train=True)`, which trains its model"

    @property
    def elsewhere(self) -> bool:
        """Whether the model was trained elsewhere, by steps that are not known."""
        return self.trained and self.seed is None


class MovedBuild:
    """A build whose models are copies of another precision or device."""

    __slots__ = ("build", "device", "dtype")

    def __init__(self, build: Build, dtype: torch.dtype, device: torch.device) -> None:
        self.build = build
        self.dtype = dtype
        self.device = device

    @property
    def span(self) -> Span:
        """Where the model is written, if a text wrote it."""
        found: Span = getattr(self.build, "span", NOWHERE)
        return found

    def __call__(self, seed: int) -> nn.Module:
        """A fresh model."""
        return copied(unwrapped(self.build(seed)), self.dtype, self.device)
