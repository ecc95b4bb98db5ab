"""Rows of a map-style data set, made by it when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from curvlang.models.data.loader_rows import differs
from curvlang.models.data.rows import Places, Rows, StoredRows, numbers_of
from curvlang.models.padding.ragged_rows import RaggedColumn, RaggedRows
from curvlang.models.sources.item_readers import Reader

Part = Tensor | RaggedColumn
"""One part of some examples."""
Parts = dict[str, Part]
"""Inputs and targets, or fields, of some examples."""


class ItemSource:
    """Examples that a data set makes.

    Args:
        read: Items by number.
        made: What becomes of some of them.
        part: `train` or `query`, for messages.
    """

    def __init__(self, read: Reader, made: Callable[[Sequence[Any]], Parts], part: str) -> None:
        self.read = read
        self.made = made
        self.part = part
        self.stored: set[str] = set()
        self._last: dict[str, tuple[tuple[int, ...], Part]] = {}

    def parts(self, numbers: Sequence[int]) -> Parts:
        """All parts of some examples."""
        return self.made(self.read(numbers))

    def one(self, name: str, places: Places) -> Part:
        """One part of some examples; others that are made with it are kept until they are asked for."""
        numbers = tuple(numbers_of(places).tolist())
        known = self._last.pop(name, None)
        if known is not None and known[0] == numbers:
            return known[1]
        found = self.parts(numbers)
        self._last = {k: (numbers, found[k]) for k in self.stored - {name}}
        return found[name]


class ItemRows(StoredRows):
    """One part of all examples, in rows of one shape.

    Args:
        source: Shared by all parts.
        name: Of the part.
        shape: [N, …].
        dtype: Of every row.
    """

    def __init__(
        self, source: ItemSource, name: str, shape: Sequence[int], dtype: torch.dtype
    ) -> None:
        super().__init__(shape, dtype)
        self.source = source
        self.name = name
        source.stored.add(name)

    def read(self, places: Places) -> Tensor:
        """What the data set makes of these examples.

        Raises:
            SpecError: E0409 where it makes something of another shape than before.
        """
        if not len(places):
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        found = self.source.one(self.name, places)
        if not isinstance(found, Tensor) or found.shape[1:] != self.shape[1:]:
            raise differs(int(numbers_of(places)[0]), self.source.part)
        return found.to(self.dtype)


class ItemRaggedRows(RaggedRows):
    """One part of all examples, in rows of different lengths.

    Args:
        source: Shared by all parts.
        name: Of the part.
        lengths: Of every row.
        like: A row.
    """

    def __init__(self, source: ItemSource, name: str, lengths: Tensor, like: Tensor) -> None:
        self.source = source
        self.name = name
        self.like = like
        self._lengths = lengths
        source.stored.add(name)

    @property
    def lengths(self) -> Tensor:
        """T_n of every row, [N]."""
        return self._lengths

    def padded(self, width: int, fill: int) -> Rows:
        """[N, width, …], filled behind every row when it is read."""
        return PaddedItems(self, width, fill)


class PaddedItems(StoredRows):
    """Rows of different lengths, padded where they are made.

    Args:
        source: The rows.
        width: Of padded rows.
        fill: What padding consists of.
    """

    def __init__(self, source: ItemRaggedRows, width: int, fill: int) -> None:
        shape = (len(source), width, *source.like.shape[1:])
        super().__init__(shape, source.like.dtype, source.lengths)
        self.source = source
        self.fill = fill

    def read(self, places: Places) -> Tensor:
        """Padded rows.

        Raises:
            SpecError: E0409 where a row has another length than before.
        """
        if not len(places):
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        own = self.source
        found = own.source.one(own.name, places)
        rows = found if isinstance(found, RaggedColumn) else RaggedColumn(tuple(found))
        wrong = rows.lengths != own.lengths[numbers_of(places)]
        if bool(wrong.any()):
            raise differs(int(numbers_of(places)[wrong][0]), own.source.part)
        return rows.padded(self.shape[1], self.fill).to(self.dtype)
