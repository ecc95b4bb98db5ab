"""Functions that `torch.vmap` gives all matrices of a stack at once.

A check of entries, or a formula that decides by its values, cannot run on the tensors that `vmap` hands
out. Decompositions run on a stack of matrices as they do on one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _AtOnce(torch.autograd.Function):
    """Calls a function; under `vmap` on the whole tensor, the axis of the stack in front."""

    @staticmethod
    def forward(function: Callable[[Tensor], Any], x: Tensor) -> Any:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is differentiated."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        found = at_once(function, x.movedim(in_dims[1], 0))
        return found, (0,) * len(found) if isinstance(found, tuple) else 0


def at_once(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """The function of a tensor, or under `vmap` of a stack of them.

    Args:
        function: Gives a tensor or several. With more axes in front of its tensor it gives its
            results with the same ones in front.
        x: The tensor.
    """
    return _AtOnce.apply(function, x)


def same(x: Tensor | None, y: Tensor | None) -> bool:
    """Whether two bases are one: the same tensor, equal numbers, or both the identity (None)."""
    return x is y or (x is not None and y is not None and equal(x, y))


def equal(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same number by number, in every matrix of a stack."""
    if x.shape != y.shape:
        return False
    found = []

    def compare(both: Tensor) -> Tensor:
        found.append(torch.equal(both[..., 0], both[..., 1]))
        return both

    at_once(compare, torch.stack([x, y], -1))
    return found[0]
