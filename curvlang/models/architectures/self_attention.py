"""A layer of self-attention over the positions of an example: what heads are tried on."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from curvlang.models.architectures.initialise import drawn
from curvlang.models.architectures.mlp import POOLING


class SelfAttention(nn.Module):
    """Heads that attend to all positions, and a layer that joins them: [B, T, inputs] to [B, T, outputs].

    Args:
        inputs: Features of a position.
        outputs: Outputs of a position.
        heads: Heads of attention.
        size: Features of a head.
        bias: Whether the layers have biases.
        positions: A word in `POOLING`: what the loss sees of an example's positions.
    """

    stable_name = "curvlang.models.attention.SelfAttention"

    def __init__(
        self, inputs: int, outputs: int, heads: int, size: int, bias: bool, positions: str
    ) -> None:
        super().__init__()
        self.heads = heads
        self.positions = positions
        self.query = nn.Linear(inputs, heads * size, bias=bias)
        self.key = nn.Linear(inputs, heads * size, bias=bias)
        self.value = nn.Linear(inputs, heads * size, bias=bias)
        self.out = nn.Linear(heads * size, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs; a single position has no axis of its own."""
        single = x.dim() == 2
        rows = x.unsqueeze(1) if single else x
        q, k, v = (self._split(part(rows)) for part in (self.query, self.key, self.value))
        mixed = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found.squeeze(1) if single else POOLING[self.positions](found)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, positions={self.positions}"

    def _split(self, h: Tensor) -> Tensor:
        """[B, T, D] to [B, heads, T, D/heads]."""
        return h.unflatten(2, (self.heads, -1)).transpose(1, 2)


def attention(
    features: tuple[int, int],
    heads: int,
    size: int,
    bias: bool,
    positions: str,
    generator: Generator,
) -> SelfAttention:
    """A layer of attention whose parameters a generator draws.

    Args:
        features: Of a position, and outputs for it.
        heads: Heads.
        size: Features of a head.
        bias: Whether the layers have biases.
        positions: A word in `POOLING`.
        generator: Where the parameters are drawn from.
    """
    inputs, outputs = features
    return drawn(
        lambda: SelfAttention(inputs, outputs, heads, size, bias, positions), generator
    ).eval()
