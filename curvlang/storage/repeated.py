"""Tensors of several blocks that are the same in all of them: one in memory, with a view along the first axis.

The axis has no stride there: what made the tensor never read an index of the blocks. No numbers are compared,
and whatever computes with such a tensor, converts it, adds to it, writes it or sends it, does so once.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def repeats(x: Tensor) -> bool:
    """Whether a tensor is one along its first axis."""
    return x.ndim > 0 and x.shape[0] > 1 and x.stride(0) == 0


def once(x: Tensor) -> Tensor:
    """A view with each entry once: a first axis of length 1 where the tensor is one along it."""
    # Not `x[:1]`, whose axis has no stride either.
    return x[0][None] if repeats(x) else x


def again(x: Tensor, count: int) -> Tensor:
    """`once` undone: a view whose first axis has a length."""
    return x.expand(count, *x.shape[1:])


def of_once(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a function makes of a tensor that leaves its first axis alone; called for each entry once."""
    return again(function(once(x)), len(x)) if repeats(x) else function(x)
