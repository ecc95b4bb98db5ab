"""Rows of examples: what a tensor and data on disk have in common, so that both are read by batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

Value = TypeVar("Value")

PIECE = 2**25
"""Bytes of rows that are looked at together where all rows are looked at."""

READ = 2**23
"""Bytes of stored rows that are read together where all are looked at."""

Places: TypeAlias = "range | Tensor"
"""Which rows: consecutive or evenly spaced ones, or int64 numbers; all of them from 0 to N − 1."""


class Rows(Protocol):
    """The inputs or the targets of all examples, [N, …]: a tensor, or rows that are read when asked for.

    An index is a number (one row), a slice, or a tensor of numbers or of bool (rows).
    """

    @property
    def shape(self) -> torch.Size:
        """[N, …]."""

    @property
    def dtype(self) -> torch.dtype:
        """Of every row."""

    @property
    def device(self) -> torch.device:
        """Where rows are when they are read; an index is a tensor on the same device."""

    @property
    def ndim(self) -> int:
        """Axes, that of the examples included."""

    def is_floating_point(self) -> bool:
        """Whether rows are numbers of floating point."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: slice | Tensor | int, /) -> Tensor:
        """The rows."""


Pair: TypeAlias = tuple[Rows, Rows]
"""Inputs and targets."""

Examples: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets of some examples, in memory."""


class StoredRows(ABC):
    """Rows that stay where they are until they are asked for; what is read is a tensor on the host.

    Abstract: an implementation gives `read`. Rows do not change; what was found out about all of them
    is kept (`known`).

    Args:
        shape: [N, …].
        dtype: Of every row.
        lengths: Tokens of every row, where rows are of different lengths.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, lengths: Tensor | None = None
    ) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.lengths = lengths
        self._known: dict[str, Any] = {}

    @abstractmethod
    def read(self, places: Places) -> Tensor:
        """A new tensor of the rows at these places, in their order.

        Args:
            places: Numbers of rows, or a slice.
        """

    @property
    def device(self) -> torch.device:
        """The host."""
        return torch.device("cpu")

    @property
    def ndim(self) -> int:
        """Axes, that of the examples included."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        """Whether rows are numbers of floating point."""
        return self.dtype.is_floating_point

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor | int) -> Tensor:
        if isinstance(index, int):
            return self.read(_one(index, len(self)))[0]
        return self.read(places_of(index, len(self)))

    def known(self, what: str, find: Callable[[], Value]) -> Value:
        """What is found out about all rows; found once."""
        if what not in self._known:
            self._known[what] = find()
        return cast(Value, self._known[what])

    def has(self, what: str) -> bool:
        """Whether that was found out."""
        return what in self._known

    def odd(self, what: str, is_odd: Callable[[Tensor], Tensor | None]) -> OddEntries | None:
        """Entries that something is wrong with; looked for once."""
        return self.known(what, lambda: _odd_entries(self, is_odd))

    def __repr__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({list(self.shape)}, {kind})"


def _one(index: int, size: int) -> range:
    place = index + size if index < 0 else index
    if not 0 <= place < size:
        raise IndexError(f"there is no row {index} of {size}")
    return range(place, place + 1)


def places_of(index: slice | Tensor, size: int) -> Places:
    """The rows that an index means, as a tensor of `size` rows would read it.

    Raises:
        IndexError: For a row that is not there.
    """
    if isinstance(index, slice):
        return range(*index.indices(size))
    if index.dtype == torch.bool:
        if tuple(index.shape) != (size,):
            raise IndexError(f"a mask of shape {list(index.shape)} for {size} rows")
        return index.cpu().nonzero()[:, 0]
    places = index.cpu().to(torch.int64)
    if places.ndim != 1 or (
        len(places) and not -size <= int(places.min()) <= int(places.max()) < size
    ):
        raise IndexError(f"rows of {size} are numbered from 0 to {size - 1}, in one list")
    return torch.where(places < 0, places + size, places)


def numbers_of(places: Places) -> Tensor:
    """The places as numbers."""
    if isinstance(places, Tensor):
        return places
    return torch.arange(places.start, places.stop, places.step)


def rows_at_once(rows: Rows, limit: int = PIECE) -> int:
    """Consecutive rows that take no more than `limit` bytes together; at least one."""
    return max(1, limit // max(1, rows.shape[1:].numel() * rows.dtype.itemsize))


def pieces(rows: Rows, limit: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """All rows, some at a time: the number of the first of them, and they.

    Args:
        rows: [N, …].
        limit: Bytes of them together; less where they are stored, since one piece is read while the one
            before it is still there.
    """
    usual = READ if isinstance(rows, StoredRows) else PIECE
    step = rows_at_once(rows, usual if limit is None else limit)
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step]


def known(rows: Rows, what: str, find: Callable[[], Value]) -> Value:
    """What is found out about all rows: once where they are stored, again where a tensor may have changed."""
    return rows.known(what, find) if isinstance(rows, StoredRows) else find()


@dataclass(frozen=True, slots=True)
class OddEntries:
    """Entries of rows that something is wrong with.

    Args:
        count: How many.
        place: Of the first of them: its row, and where it is in the row.
        value: The first of them.
    """

    count: int
    place: tuple[int, ...]
    value: float

    @property
    def row(self) -> int:
        """The first row that has one."""
        return self.place[0]


def odd_entries(
    rows: Rows, what: str, is_odd: Callable[[Tensor], Tensor | None]
) -> OddEntries | None:
    """The entries of all rows that are odd; None where there are none.

    Args:
        rows: [N, …].
        what: Names what is looked for: stored rows are looked at once.
        is_odd: Of some rows: a mask of their shape, or None where nothing is odd.
    """
    if isinstance(rows, StoredRows):
        return rows.odd(what, is_odd)
    return _odd_entries(rows, is_odd)


def _odd_entries(rows: Rows, is_odd: Callable[[Tensor], Tensor | None]) -> OddEntries | None:
    count, first = 0, None
    for start, piece in pieces(rows):
        wrong = is_odd(piece)
        if wrong is None or not bool(wrong.any()):
            continue
        count += int(wrong.sum())
        if first is None:
            at = wrong.reshape(-1).to(torch.uint8).argmax()
            row, *rest = (int(k) for k in torch.unravel_index(at, piece.shape))
            first = (start + row, *rest), piece.reshape(-1)[at].item()
    return None if first is None else OddEntries(count, *first)


def largest(rows: Rows) -> int:
    """The largest of all integers; 0 where there are none."""
    found = known(rows, "largest", lambda: [int(x.max()) for _, x in pieces(rows) if x.numel()])
    return max(found, default=0)
