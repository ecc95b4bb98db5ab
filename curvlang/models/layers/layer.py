"""What a layer shows of itself: its input as `a`, gradients at its output as `g`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Layer:
    """How a layer type reads as a matrix product at every position.

    Args:
        name: The type's name.
        inputs: `(module, x) -> a [B, T, I]`, without the bias column.
        outputs: `(module, cotangent) -> [B, T, O]`.
    """

    name: str
    inputs: Callable[[nn.Module, Tensor], Tensor]
    outputs: Callable[[nn.Module, Tensor], Tensor]
