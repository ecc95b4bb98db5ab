"""Data that is drawn: standard normal inputs, and targets of the kind that the loss takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from curvlang.models.data.data import Data


def random_data(examples: int, inputs: int, outputs: int, positions: int, seed: int) -> Data:
    """`examples` training examples and as many queries, float32, different for every seed.

    Args:
        examples: N, and Q.
        inputs: Features of an example, or of each of its positions.
        outputs: Outputs that the model has.
        positions: T; inputs are [N, inputs] for T = 1 and [N, T, inputs] otherwise.
        seed: Of everything that is drawn.
    """
    shape = (examples, inputs) if positions == 1 else (examples, positions, inputs)
    generator = Generator().manual_seed(seed)
    pairs = [
        (torch.randn(shape, generator=generator), torch.zeros(examples, dtype=torch.int64))
        for _ in ("train", "query")
    ]

    def targets(part: str, loss: str, outputs_shape: Sequence[int]) -> Tensor:
        return _targets(loss, outputs_shape, Generator().manual_seed(2 * seed + (part == "train")))

    return Data(
        pairs[0], pairs[1], outputs, inputs, "random", positions=positions, targets=targets
    )  # fmt: skip


def _targets(loss: str, shape: Sequence[int], generator: Generator) -> Tensor:
    """Classes for cross-entropy, probabilities for the logistic loss, normal numbers otherwise."""
    match loss:
        case "cross_entropy":
            return torch.randint(0, shape[-1], tuple(shape[:-1]), generator=generator)
        case "bce_with_logits":
            return torch.rand(tuple(shape), generator=generator)
        case _:
            return torch.randn(tuple(shape), generator=generator)
