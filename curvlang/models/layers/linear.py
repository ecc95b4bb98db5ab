"""`nn.Linear`: s = W a + b at every position of any leading shape."""

from __future__ import annotations

from torch import Tensor, nn

from curvlang.models.layers.layer import Layer


def _positions(module: nn.Module, x: Tensor) -> Tensor:
    """`[B, *, D]` to `[B, T, D]`: all middle axes are positions."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


LINEAR = Layer("Linear", _positions, _positions)
