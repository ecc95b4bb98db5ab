"""Results that blocks with one input share, kept as long as one of them may ask again.

A plan says which blocks have the same input; here nothing is taken from it but where to look. A
product is known where it is asked for the same memory in the same batch, a decomposition where its
matrix is the same number by number: a model that reads another tensor in a later batch gets its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Place: TypeAlias = "tuple[int, torch.Size, tuple[int, ...]]"
"""A tensor as a piece of memory."""


class Memo:
    """What has been computed of shared inputs in this batch, and of shared matrices after a pass."""

    def __init__(self) -> None:
        self._inputs: set[int] = set()
        self._products: dict[tuple[Any, ...], tuple[Tensor, Tensor | None]] = {}
        self._decomposed: list[tuple[str, tuple[float, ...], Tensor, Any]] = []
        self._looking = False

    def hold(self, leaves: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin a batch: tensors that several blocks are given stay where they are until it ends."""
        given = [x for own in leaves.values() for x in own.values() if isinstance(x, Tensor)]
        counts = Counter(x.data_ptr() for x in given)
        self._inputs = {place for place, count in counts.items() if count > 1}

    def release(self) -> None:
        """Forget everything: the batch is over, or the pass is finished."""
        self._inputs.clear()
        self._products.clear()
        self._decomposed.clear()
        self._looking = False

    def look(self, sharing: bool) -> None:
        """Whether the block whose statistics are finished next shares its input with another."""
        self._looking = sharing

    def gram(self, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`gram`, once for each shared input."""

        def once(x: Any, groups: int = 1) -> Tensor:
            return self._once(x, None, groups, lambda: call(x, groups))

        return once

    def rotate(self, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`rotate`, once for each shared input and matrix."""
        return lambda x, matrix: self._once(x, matrix, 0, lambda: call(x, matrix))

    def function(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A decomposition, once for equal matrices of sharing blocks."""

        def decomposed(matrix: Tensor, *numbers: float) -> Any:
            if not self._looking:
                return call(matrix, *numbers)
            for known, given, same, result in self._decomposed:
                if (known, given) == (name, numbers) and torch.equal(same, matrix):
                    return result
            found = call(matrix, *numbers)
            self._decomposed.append((name, numbers, matrix, found))
            return found

        return decomposed

    def _once(
        self, x: Any, matrix: Tensor | None, groups: int, compute: Callable[[], Tensor]
    ) -> Tensor:
        if not isinstance(x, Tensor) or x.data_ptr() not in self._inputs:
            return compute()
        key = (_place(x), None if matrix is None else _place(matrix), groups)
        if key not in self._products:
            # The matrix is held as long as its place stands for it.
            self._products[key] = (compute(), matrix)
        return self._products[key][0]


def _place(x: Tensor) -> Place:
    return x.data_ptr(), x.shape, x.stride()
