"""Rows made from other rows: some of them, in another precision, or a function of every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from curvlang.models.data.rows import (
    OddEntries,
    Pair,
    Places,
    Rows,
    StoredRows,
    numbers_of,
    places_of,
)

HELD = 2**26
"""Bytes of rows that are read once and stay in memory: reading them again takes longer than it saves."""

Mask = Callable[[Tensor], Tensor | None]
"""Of some rows, which entries are odd."""


class MappedRows(StoredRows):
    """A function of every row of one source or of several, computed where rows are read.

    Args:
        sources: Rows of one N.
        function: The rows of every source at some places to [B, …]; each row from its own alone.
        shape: Of one row.
        dtype: Of what the function gives.
    """

    def __init__(
        self,
        sources: Sequence[Rows],
        function: Callable[..., Tensor],
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> None:
        super().__init__((len(sources[0]), *shape), dtype)
        self.sources = tuple(sources)
        self.function = function

    def read(self, places: Places) -> Tensor:
        """The function of these rows."""
        return self.function(*(_read(source, places) for source in self.sources))


class CastRows(MappedRows):
    """Rows in another precision."""

    def __init__(self, source: StoredRows, dtype: torch.dtype) -> None:
        super().__init__((source,), lambda x: x.to(dtype), source.shape[1:], dtype)
        self.source = source
        self.lengths = source.lengths

    def odd(self, what: str, is_odd: Mask) -> OddEntries | None:
        """As for the source, where every number of it is exact here."""
        if torch.promote_types(self.source.dtype, self.dtype) == self.dtype:
            return self.source.odd(what, is_odd)
        return super().odd(what, is_odd)


class JoinedRows(StoredRows):
    """The rows of several sources, one behind the other.

    Args:
        sources: With rows of one shape and type.
    """

    def __init__(self, sources: Sequence[StoredRows]) -> None:
        counts = torch.tensor([len(source) for source in sources])
        super().__init__((int(counts.sum()), *sources[0].shape[1:]), sources[0].dtype)
        self.sources = tuple(sources)
        self.stops = counts.cumsum(0)

    def read(self, places: Places) -> Tensor:
        """The rows of every source that are among these, each read together."""
        numbers = numbers_of(places)
        owners = torch.bucketize(numbers, self.stops, right=True)
        if bool((owners[1:] >= owners[:-1]).all()):
            # In the order of the sources, as batches are: no row is copied twice where one has them all.
            own = [self._own(k, places, owners == k) for k in owners.unique().tolist()]
            return (
                own[0] if len(own) == 1 else torch.cat(own) if own else self.sources[0].read(places)
            )
        found = torch.empty((len(numbers), *self.shape[1:]), dtype=self.dtype)
        for k in owners.unique().tolist():
            found[owners == k] = self._own(k, places, owners == k)
        return found

    def _own(self, k: int, places: Places, chosen: Tensor) -> Tensor:
        """Rows of one source, by their numbers among all."""
        begin = int(self.stops[k]) - len(self.sources[k])
        if isinstance(places, range) and places.step == 1:
            least, most = max(places.start, begin), min(places.stop, int(self.stops[k]))
            return self.sources[k].read(range(least - begin, most - begin))
        return self.sources[k].read(numbers_of(places)[chosen] - begin)


class SelectedRows(StoredRows):
    """Some of the rows, in any order.

    Args:
        source: All of them.
        places: Which.
    """

    def __init__(self, source: StoredRows, places: Places) -> None:
        super().__init__((len(places), *source.shape[1:]), source.dtype)
        self.source = source
        self.places = places
        if source.lengths is not None:
            self.lengths = source.lengths[numbers_of(places)]

    def read(self, places: Places) -> Tensor:
        """The source's rows at these of the places."""
        if isinstance(self.places, range) and isinstance(places, range):
            return self.source.read(self.places[places.start : places.stop : places.step])
        return self.source.read(numbers_of(self.places)[numbers_of(places)])

    def odd(self, what: str, is_odd: Mask) -> OddEntries | None:
        """Nothing where all rows of the source are known to have nothing."""
        if self.source.has(what) and self.source.odd(what, is_odd) is None:
            return None
        return super().odd(what, is_odd)


def _read(source: Rows, places: Places) -> Tensor:
    if isinstance(source, StoredRows):
        return source.read(places)
    if isinstance(places, range) and places.step > 0:
        return source[places.start : places.stop : places.step]
    return source[numbers_of(places).to(source.device)]


def cast(rows: Rows, dtype: torch.dtype, device: torch.device | None = None) -> Rows:
    """Floating-point rows in another precision; a tensor on another device, what is stored where it is."""
    wanted = dtype if rows.is_floating_point() else rows.dtype
    if isinstance(rows, StoredRows):
        return rows if rows.dtype == wanted else CastRows(rows, wanted)
    assert isinstance(rows, Tensor)
    return rows.to(device=rows.device if device is None else device, dtype=wanted)


def mapped(
    rows: Rows, function: Callable[[Tensor], Tensor], shape: Sequence[int], dtype: torch.dtype
) -> Rows:
    """A function of every row: at once for a tensor, where rows are read for what is stored."""
    if isinstance(rows, StoredRows):
        return MappedRows((rows,), function, shape, dtype)
    return function(rows[:])


def fits(shape: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether rows are so few that they are read once and stay in memory."""
    return torch.Size(shape).numel() * dtype.itemsize <= HELD


def as_numbers(mask: Tensor) -> Rows:
    """A mask as int64: in memory where it is small, else where it is read."""
    if fits(mask.shape, torch.int64):
        return mask.to(torch.int64)
    return MappedRows((mask,), lambda x: x.to(torch.int64), mask.shape[1:], torch.int64)


def joined_columns(
    parts: Sequence[Rows], function: Callable[..., Tensor], shape: Sequence[int], dtype: torch.dtype
) -> Rows:
    """A function of every row of several parts together: at once where all are tensors.

    Args:
        parts: Rows of one N.
        function: Of some rows of every part.
        shape: Of a row that it gives.
        dtype: Likewise.
    """
    if any(isinstance(part, StoredRows) for part in parts):
        return MappedRows(parts, function, shape, dtype)
    return function(*(part[:] for part in parts))


def selected(rows: Rows, index: slice | Tensor) -> Rows:
    """Some of the rows: a tensor of a tensor's, and of few that are stored."""
    if not isinstance(rows, StoredRows):
        return rows[index]
    places = places_of(index, len(rows))
    few = fits((len(places), *rows.shape[1:]), rows.dtype)
    return rows.read(places) if few else SelectedRows(rows, places)


def cast_pair(pair: Pair, dtype: torch.dtype, device: torch.device) -> Pair:
    """Both in another precision; stored examples stay on the host: batches are moved."""
    return cast(pair[0], dtype, device), cast(pair[1], dtype, device)


def selected_pair(pair: Pair, index: slice | Tensor) -> Pair:
    """The same of inputs and targets."""
    return selected(pair[0], index), selected(pair[1], index)
