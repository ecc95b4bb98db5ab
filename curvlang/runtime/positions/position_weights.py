"""What every position of a batch counts in a mean, where some positions are padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curvlang.compiler.derive.builder import JOINT, OWN
from curvlang.models.padding.spans import Batch
from curvlang.runtime.positions.alignment import Alignment


def position_weights(
    calls: Sequence[Alignment], batch: Batch, examples: int, like: Tensor, count: int = 1
) -> dict[str, Tensor]:
    """Weights [B, T] of a block's positions in a mean over all of them, and over an example's own.

    Blocks of one shape have the same weights, with their axis in front.

    Args:
        calls: The positions of every call of the layer.
        batch: The examples.
        examples: All of them.
        like: Has the weights' precision and device.
        count: How many blocks.
    """
    counted = torch.cat([call.counted(batch, like) for call in calls], 1)
    total = sum(map(_total, calls, [examples] * len(calls)))
    own = counted.sum(1, keepdim=True).clamp_min(1)
    weights = {JOINT: counted * (examples / total), OWN: counted / own}
    if count == 1:
        return weights
    return {kind: w.expand(count, *w.shape) for kind, w in weights.items()}


def _total(call: Alignment, examples: int) -> int:
    """Positions that count over all examples."""
    if call.mask is None:
        return examples * call.positions
    return call.own * call.before * call.after
