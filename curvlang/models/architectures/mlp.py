"""The built-in model: a multilayer perceptron drawn from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "identity": nn.Identity,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
}
"""Activations by their name in a spec."""


POOLING: Mapping[str, Callable[[Tensor], Tensor]] = {
    "kept": lambda f: f,
    "averaged": lambda f: f.mean(1),
    "summed": lambda f: f.sum(1),
}
"""What becomes of the positions of an output [B, T, C] before the loss."""


class Pooling(nn.Module):
    """Outputs [B, T, C] to [B, C]: the positions of an example are averaged or summed."""

    stable_name = "curvlang.models.mlp.Pooling"

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, f: Tensor) -> Tensor:
        """The outputs without their positions."""
        return POOLING[self.how](f)

    def extra_repr(self) -> str:
        return self.how


def mlp(
    widths: Sequence[int],
    activation: str,
    bias: bool,
    generator: Generator | None = None,
    positions: str = "kept",
    initialisation: str = "torch",
) -> nn.Sequential:
    """Linear layers with an activation between them, float32 on the CPU.

    Weights and biases are uniform in ±1/√fan_in, which is `nn.Linear`'s own initialisation, or
    normal with variance 2/fan_in and zero (He et al. 2015, arXiv:1502.01852).

    Args:
        widths: Features of an example, the width of every hidden layer, and the model's outputs.
        activation: A name in `ACTIVATIONS`.
        bias: Whether the layers have biases.
        generator: Where the parameters are drawn from; None for a new one with seed 0. The
            global seed is neither read nor changed.
        positions: A word in `POOLING`, for inputs [B, T, inputs]: what the loss sees of T.
        initialisation: `torch` or `he`.
    """
    generator = Generator().manual_seed(0) if generator is None else generator
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        linear = _linear((d_in, d_out), bias, generator, initialisation)
        layers += [linear, ACTIVATIONS[activation]()]
    pooling = [] if positions == "kept" else [Pooling(positions)]
    return nn.Sequential(*layers[:-1], *pooling).eval()


def _linear(
    sizes: tuple[int, int], bias: bool, generator: Generator, initialisation: str
) -> nn.Module:
    # On `meta` nothing is drawn, so that the global generator is left as it was.
    module = nn.Linear(*sizes, bias=bias, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(sizes[0])
    with torch.no_grad():
        for p in module.parameters():
            if initialisation == "torch":
                p.uniform_(-bound, bound, generator=generator)
            elif p.ndim > 1:
                p.normal_(0, math.sqrt(2) * bound, generator=generator)
            else:
                p.zero_()
    return module
