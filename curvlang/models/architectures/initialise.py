"""Parameters drawn from an explicit generator, so that the global seed is neither read nor changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Generator, nn

M = TypeVar("M", bound=nn.Module)


def drawn(make: Callable[[], M], generator: Generator) -> M:
    """A module of `make`, its parameters drawn: float32 on the CPU.

    Weights and biases of linear layers and convolutions are uniform in ±1/√fan_in, which is torch's
    own initialisation; embeddings are normal with variance 1/width, so that rows have norm one;
    norm layers start as the identity.

    Args:
        make: Builds the module; it is called on `meta`, where nothing is drawn.
        generator: Where the parameters are drawn from.
    """
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for part in module.modules():
            _draw(part, generator)
    return module


def _draw(part: nn.Module, generator: Generator) -> None:
    match part:
        case nn.Linear() | nn.Conv2d():
            bound = 1 / math.sqrt(part.weight[0].numel())
            for p in part.parameters(recurse=False):
                p.uniform_(-bound, bound, generator=generator)
        case nn.Embedding():
            part.weight.normal_(0, 1 / math.sqrt(part.embedding_dim), generator=generator)
        case nn.LayerNorm() | nn.GroupNorm():
            part.weight.fill_(1)
            part.bias.fill_(0)
        case _:
            own = [name for name, _ in part.named_parameters(recurse=False)]
            assert not own, f"{type(part).__name__} has no rule for {own}"
