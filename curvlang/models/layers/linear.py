"""`nn.Linear`, and the transposed one of `transformers`: s = W a + b at every position."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from curvlang.models.layers.layer import Input, Layer, Part, entries, parameter, rows_of


def positions(x: Tensor) -> Tensor:
    """`[B, *, D]` to `[B, T, D]`: all middle axes are positions."""
    return x.reshape(x.shape[0], prod(x.shape[1:-1]), x.shape[-1])


class Linear(Layer):
    """`nn.Linear`: weight [O, I], any leading shape with the examples first."""

    name = "Linear"
    rows = True
    folds = True

    def parts(self, module: nn.Module) -> tuple[Part, ...]:
        """The weight as it is."""
        weight = parameter(module, self.weight)
        return (Part(rows_of(weight), entries(weight.shape[0], weight)),)

    def inputs(self, module: nn.Module, x: Tensor, shape: torch.Size) -> tuple[Input, ...]:
        """The last axis is features."""
        return (positions(x),)

    def outputs(self, module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """The last axis is features."""
        return (positions(cotangent),)


class TransposedLinear(Linear):
    """`transformers.pytorch_utils.Conv1D`: weight [I, O]."""

    name = "Conv1D (transformers)"

    def parts(self, module: nn.Module) -> tuple[Part, ...]:
        """The weight read from the side."""
        weight = parameter(module, self.weight)
        return (Part(rows_of(weight).T, entries(weight.shape[1], weight)),)
