"""What every position of a batch counts in a mean, where some positions are padding."""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.compiler.unit import JOINT, OWN
from curvlang.models.blocks import LayerBlock


def position_weights(
    block: LayerBlock, mask: Tensor, rows: slice, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Weights [B, T] of a block's positions in a mean over all of them, and over an example's own.

    Blocks of one shape have the same weights, with their axis in front.

    Args:
        block: Where its positions are those of the mask, once or several times over (a layer that
            is called several times), padding does not count; elsewhere all positions do.
        mask: [N, T] of all training examples.
        rows: The examples of the batch.
        dtype: Of the weights.
    """
    mask = mask.to(block.index.device)
    T = mask.shape[1]
    if block.positions % T or not block.factored:
        size = (rows.stop - rows.start, block.positions)
        even = torch.full(size, 1 / block.positions, dtype=dtype, device=mask.device)
        return _for_each(block, {JOINT: even, OWN: even})
    uses = block.positions // T
    given = mask.to(dtype)
    batch = given[rows].repeat(1, uses) / uses
    weights = {
        JOINT: batch * (len(given) / given.sum()),
        OWN: batch / given[rows].sum(1, keepdim=True),
    }
    return _for_each(block, weights)


def _for_each(block: LayerBlock, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights once, or for each of several blocks."""
    if block.count == 1:
        return weights
    return {kind: w.expand(block.count, *w.shape) for kind, w in weights.items()}
