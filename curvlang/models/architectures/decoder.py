"""A small decoder transformer: embeddings, causal attention made of linear layers, pre-norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.architectures.initialise import drawn
from curvlang.models.architectures.mlp import ACTIVATIONS


class Attention(nn.Module):
    """Causal self-attention, softmax(q kᵀ/√d) v per head, in plain arithmetic.

    Args:
        width: Features of a position.
        heads: Heads; they share the width between them.
    """

    stable_name = "curvlang.models.decoder.Attention"

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        q, k, v = (self._split(part(h)) for part in (self.query, self.key, self.value))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        later = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).triu(1)
        mixed = torch.softmax(scores.masked_fill(later, -torch.inf), -1) @ v
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found

    def _split(self, h: Tensor) -> Tensor:
        """[B, T, D] to [B, heads, T, D/heads]."""
        return h.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """h + attention(norm(h)), then h + mlp(norm(h))."""

    stable_name = "curvlang.models.decoder.Block"

    def __init__(self, width: int, heads: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.down = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        h = h + self.attention(self.norm1(h))
        found: Tensor = h + self.down(self.activation(self.up(self.norm2(h))))
        return found


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """The blocks of a decoder.

    Args:
        width: Features of a position.
        heads: Heads of attention.
        layers: Blocks.
        hidden: Width inside a block's perceptron.
        activation: A name in `ACTIVATIONS`.
    """

    width: int
    heads: int
    layers: int
    hidden: int
    activation: str


class Decoder(nn.Module):
    """Numbers of tokens [B, T] to logits [B, T, C].

    Args:
        tokens: C, size of the vocabulary.
        context: T at most.
        sizes: Of its blocks.
    """

    stable_name = "curvlang.models.decoder.Decoder"

    def __init__(self, tokens: int, context: int, sizes: DecoderSizes) -> None:
        super().__init__()
        width = sizes.width
        self.tokens = nn.Embedding(tokens, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(
            *(
                Block(width, sizes.heads, sizes.hidden, sizes.activation)
                for _ in range(sizes.layers)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)

    def forward(self, X: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        places = torch.arange(X.shape[1], device=X.device).expand(X.shape[0], -1)
        h = self.tokens(X) + self.positions(places)
        found: Tensor = self.head(self.norm(self.blocks(h)))
        return found


def decoder(
    tokens: int,
    context: int,
    sizes: DecoderSizes,
    generator: Generator | None = None,
) -> Decoder:
    """A decoder whose parameters a generator draws; None for a new one with seed 0.

    Raises:
        SpecError: E0412 for heads that do not divide the width.
    """
    if sizes.width % sizes.heads:
        raise refusal(
            Code.E0412,
            f"`heads = {sizes.heads}` does not divide `width = {sizes.width}`",
            "take a number of heads that divides the width",
        )
    generator = Generator().manual_seed(0) if generator is None else generator
    return drawn(lambda: Decoder(tokens, context, sizes), generator).eval()
