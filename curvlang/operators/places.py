"""Which entries of the parameter vector a block acts on: a few ranges where they are, else one by one.

The matrix of a layer [O, I] is one range of the vector, in its own order or transposed; with the bias as its
last column it is two. Ranges take no memory, whatever the size of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Piece = tuple[int, int, bool]
"""Columns of a matrix that are one range: where it begins, how many they are, whether it lies transposed."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Entries of the parameter vector in the order of a block.

    Args:
        rows: Of the matrix whose entries they are, row by row.
        pieces: Its columns, from left to right; none where `single` says them.
        single: Every entry by itself, int64; None where pieces say them.
        origin: A zero, int64, where an index of them is wanted; `single` itself where it says them.
    """

    rows: int
    pieces: tuple[Piece, ...]
    single: Tensor | None
    origin: Tensor

    @staticmethod
    def of(index: Tensor | Places) -> Places:
        """The places that an index names, as ranges where they are some."""
        if isinstance(index, Places):
            return index
        known = not index.is_meta and not isinstance(index, FakeTensor)
        if known and index.dtype == torch.long and index.ndim == 1:
            for rows, pieces in _readings(index):
                found = Places(rows, pieces, None, torch.zeros_like(index[0]))
                if torch.equal(found.index, index):
                    return found
        return Places(1, (), index, index)

    @property
    def size(self) -> int:
        """How many there are."""
        if self.single is not None:
            return len(self.single)
        return self.rows * sum(length for _, length, _ in self.pieces)

    @property
    def bytes(self) -> int:
        """That they take."""
        return 0 if self.single is None else self.single.nbytes

    @property
    def first(self) -> int:
        """The first of them."""
        return int(self.single[0]) if self.single is not None else self.pieces[0][0]

    @property
    def index(self) -> Tensor:
        """Each of them, int64, made when it is asked for."""
        if self.single is not None:
            return self.single
        return self._joined(
            [self._counted(self.rows * length) + start for start, length, _ in self.pieces]
        )

    def parts(self, count: int) -> list[Places]:
        """As many places of one size, one after the other; none of them is looked at."""
        if count == 1:
            return [self]
        if self.single is None and self.rows % count == 0 and not any(x[2] for x in self.pieces):
            rows = self.rows // count
            return [
                Places(
                    rows,
                    tuple((s + k * rows * n, n, False) for s, n, _ in self.pieces),
                    None,
                    self.origin,
                )
                for k in range(count)
            ]
        return [Places.of(x) for x in self.index.reshape(count, -1)]

    def take(self, v: Tensor) -> Tensor:
        """These rows of `v [P, …]`, a copy."""
        if self.single is not None:
            return v[self.single]
        pieces = [v[s : s + self.rows * n] for s, n, _ in self.pieces]
        found = self._joined(pieces)
        return found.clone(memory_format=torch.contiguous_format) if len(pieces) == 1 else found

    def put(self, out: Tensor, x: Tensor) -> None:
        """Write rows of `x` to their places in `out`."""
        if self.single is not None:
            out[self.single] = x
            return
        columns, left = x.reshape(self.rows, self.size // self.rows, *x.shape[1:]), 0
        for start, length, transposed in self.pieces:
            own = columns[:, left : left + length]
            whole = out[start : start + self.rows * length]
            if transposed:
                whole.view(length, self.rows, *x.shape[1:]).transpose(0, 1).copy_(own)
            else:
                whole.view(self.rows, length, *x.shape[1:]).copy_(own)
            left += length

    def same(self, other: Places) -> bool:
        """Whether they are the same, in the same order."""
        if self.single is None and other.single is None and self.rows == other.rows:
            return self.pieces == other.pieces
        return self.size == other.size and torch.equal(self.index, other.index)

    def to(self, device: torch.device) -> Places:
        """The same on a device."""
        origin = self.origin.to(device)
        return Places(self.rows, self.pieces, None if self.single is None else origin, origin)

    def plain(self) -> dict[str, Any]:
        """Ranges as plain values."""
        return {"rows": self.rows, "pieces": [list(x) for x in self.pieces]}

    @staticmethod
    def read(values: Any, device: torch.device) -> Places:
        """What `plain` gave.

        Raises:
            ValueError: For something else.
        """
        rows, pieces = values["rows"], tuple((s, n, t) for s, n, t in values["pieces"])
        numbers = [rows, *(x for s, n, _ in pieces for x in (s, n))]
        if not pieces or any(type(x) is not int or x < 0 for x in numbers) or not rows:
            raise ValueError("its places are not ranges")
        if any(type(t) is not bool for _, _, t in pieces):
            raise ValueError("its places are not ranges")
        return Places(rows, pieces, None, torch.zeros((), dtype=torch.long, device=device))

    def _counted(self, count: int) -> Tensor:
        """0 … count − 1, made of what lies on the device."""
        if self.origin.device.type == "cpu":
            return torch.arange(count)
        ones = torch.ones_like(self.origin.expand(count), memory_format=torch.contiguous_format)
        return ones.cumsum(0) - 1

    def _joined(self, pieces: Sequence[Tensor]) -> Tensor:
        """Pieces, each the entries of its range, as the entries of the matrix row by row."""
        columns = []
        for x, (_, length, transposed) in zip(pieces, self.pieces, strict=True):
            if transposed:
                columns.append(x.reshape(length, self.rows, *x.shape[1:]).transpose(0, 1))
            else:
                columns.append(x.reshape(self.rows, length, *x.shape[1:]))
        found = columns[0] if len(columns) == 1 else torch.cat(columns, 1)
        return found.reshape(self.size, *found.shape[2:])


def _readings(index: Tensor) -> list[tuple[int, tuple[Piece, ...]]]:
    """How an index may be a few ranges: rows and pieces of a matrix, to be compared with it."""
    size = len(index)
    if size == 0:
        return []
    start = int(index[0])
    found: list[tuple[int, tuple[Piece, ...]]] = []
    if int(index[-1]) - start == size - 1:
        found.append((1, ((start, size, False),)))
    if size == 1:
        return found
    step = int(index[1]) - start
    broken = (index.diff() != step).nonzero()
    length = int(broken[0]) + 1 if len(broken) else size
    for width in (length, length + 1):
        if width > size or size % width:
            continue
        rows, bias = size // width, int(index[width - 1])
        last = ((bias, 1, False),) if width > length else ()
        found.append((rows, ((start, length, step != 1), *last)))
    return found


def uncovered(places: Sequence[Places], size: int) -> str:
    """What is wrong with places that have to be each of 0 … P − 1 once, as the end of a sentence."""
    covered = torch.zeros(size, dtype=torch.bool)
    for own in places:
        single = own.single
        if single is not None and single.dtype != torch.long:
            return f"has places of type {single.dtype}"
        if single is not None and (single.is_meta or isinstance(single, FakeTensor)):
            return ""  # Shapes alone: there are no positions to look at.
        outside = f"has places outside 0…{size - 1}"
        for start, length, _ in own.pieces:
            if start < 0 or start + own.rows * length > size:
                return outside
            covered[start : start + own.rows * length] = True
        if single is not None:
            if bool((single < 0).any()) or bool((single >= size).any()):
                return outside
            covered[single.cpu()] = True
    left = size - int(covered.sum())
    return f"leaves {left} of {size} entries without a block, and has others twice" if left else ""
