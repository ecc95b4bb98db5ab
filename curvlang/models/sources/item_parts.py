"""All items of a data set, gone through once: their shapes and lengths, and what is small of them in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curvlang.models.data import derived_rows
from curvlang.models.data.arrays import UnfitError
from curvlang.models.data.loader_rows import differs
from curvlang.models.data.loaders import same_items
from curvlang.models.data.rows import PIECE, Rows
from curvlang.models.padding.ragged_rows import RaggedColumn, RaggedRows
from curvlang.models.sources.item_rows import ItemRaggedRows, ItemRows, ItemSource, Part

TRIED = 8
"""Items by which it is judged how much memory all of them take, and that are read twice."""
MOST = 1024
"""Items that are looked at together."""


class PartError(UnfitError):
    """Items that do not go together.

    Args:
        name: Of the part, or of the field.
        number: The item that differs from those before it.
        shapes: Of both; empty where one of them lacks the field.
    """

    def __init__(self, name: str, number: int, shapes: Sequence[tuple[int, ...]] = ()) -> None:
        """Keep all."""
        super().__init__("differs from item to item", "give all examples one form")
        self.name = name
        self.number = number
        self.shapes = shapes


def item_parts(source: ItemSource, count: int) -> dict[str, Rows | RaggedRows] | None:
    """The parts of all examples, each made when it is asked for, or in memory where it is small.

    Args:
        source: Of the examples.
        count: How many they are.

    Returns:
        None where all parts together are small.

    Raises:
        PartError: For items that do not go together.
        SpecError: E0407, E0409, E0557 for what the data set gives.
    """
    first = source.read(range(min(TRIED, count)))
    each = sum(map(_bytes, source.made(first).values())) / max(1, len(first))
    if each * count <= derived_rows.HELD:
        return None
    size = max(1, min(MOST, int(PIECE // max(1.0, each))))
    found: dict[str, _PartSoFar] = {}
    for start in range(0, count, size):
        made = source.parts(range(start, min(count, start + size)))
        for name in sorted(found.keys() ^ made.keys() if found else ()):
            raise PartError(name, start)
        for name, part in made.items():
            found.setdefault(name, _PartSoFar(name, count)).add(part, start)
    for number, again in enumerate(source.read(range(len(first)))):
        if not same_items(first[number], again):
            raise differs(number, source.part)
    return {name: part.rows(source) for name, part in found.items()}


def _bytes(part: Part) -> int:
    return sum(x.nbytes for x in ((part,) if isinstance(part, Tensor) else part.rows))


class _PartSoFar:
    """One part of the examples so far.

    Args:
        name: Of the part.
        count: Of all examples.
    """

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.kept: list[Part] = []
        self.held = 0
        self.lengths: list[Tensor] = []
        self.like: Tensor | None = None

    def add(self, part: Part, start: int) -> None:
        """The next examples, of which the first has a number.

        Raises:
            PartError: For examples that differ in more than the length.
        """
        row = part[0] if isinstance(part, Tensor) else part.rows[0]
        like = row if self.like is None else self.like
        if like.ndim != row.ndim or like.shape[1:] != row.shape[1:]:
            raise PartError(self.name, start, (tuple(like.shape), tuple(row.shape)))
        self.like = like.to(torch.promote_types(like.dtype, row.dtype))
        if row.ndim:
            level = torch.full((len(part),), len(row))
            self.lengths.append(part.lengths if isinstance(part, RaggedColumn) else level)
        self.held += _bytes(part)
        self.kept = [*self.kept, part] if self.held <= derived_rows.HELD else []

    def rows(self, source: ItemSource) -> Rows | RaggedRows:
        """All examples."""
        assert self.like is not None, "there is an example"
        small, dtype = self.held <= derived_rows.HELD, self.like.dtype
        lengths = torch.cat(self.lengths) if self.lengths else None
        if lengths is None or bool((lengths == lengths[0]).all()):
            if small:
                return torch.cat([x for x in self.kept if isinstance(x, Tensor)])
            return ItemRows(source, self.name, (self.count, *self.like.shape), dtype)
        if small:
            return RaggedColumn(tuple(row for part in self.kept for row in _rows(part)))
        return ItemRaggedRows(source, self.name, lengths, self.like)


def _rows(part: Part) -> Sequence[Tensor]:
    return tuple(part) if isinstance(part, Tensor) else part.rows
