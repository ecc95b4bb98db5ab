"""Rows that are made one by one, of one shape or integers of different lengths: in memory, or in a file where they are many."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from curvlang.models.data.derived_rows import fits
from curvlang.models.data.rows import Places, Rows, StoredRows, numbers_of
from curvlang.models.padding.ragged_rows import RaggedRows
from curvlang.models.sources.file_rows import FileArray, FileRows, strides_of
from curvlang.storage.scratch import scratch_file


class FlatRows(RaggedRows):
    """Rows [T_n], as entries [Σ T_n] and their lengths.

    Args:
        entries: Of all rows, int64.
        lengths: T_n of every row, [N].
    """

    __slots__ = ("_lengths", "entries", "starts")

    def __init__(self, entries: Rows, lengths: Tensor) -> None:
        self.entries = entries
        self._lengths = lengths
        self.starts = lengths.cumsum(0) - lengths

    @property
    def lengths(self) -> Tensor:
        """T_n of every row, [N]."""
        return self._lengths

    def padded(self, width: int, fill: int) -> Rows:
        """[N, width], filled behind every row; when it is read, where that is much."""
        found = PaddedFlatRows(self, width, fill)
        return found[:] if fits(found.shape, found.dtype) else found


class PaddedFlatRows(StoredRows):
    """Rows of different lengths, padded where they are read.

    Args:
        source: The rows.
        width: Of padded rows.
        fill: What padding consists of.
    """

    def __init__(self, source: FlatRows, width: int, fill: int) -> None:
        super().__init__((len(source), width), torch.int64, source.lengths)
        self.source = source
        self.fill = fill

    def read(self, places: Places) -> Tensor:
        """Padded rows."""
        rows = numbers_of(places)
        lengths, starts = self.source.lengths[rows], self.source.starts[rows]
        own = torch.arange(self.shape[1]) < lengths[:, None]
        found = torch.full((len(rows), self.shape[1]), self.fill, dtype=torch.int64)
        if bool((starts[1:] == starts[:-1] + lengths[:-1]).all()) and len(rows):
            # Rows that lie one behind the other are read in one piece.
            found[own] = self.source.entries[int(starts[0]) : int(starts[-1] + lengths[-1])]
        elif len(rows):
            found[own] = self.source.entries[(starts[:, None] + torch.arange(self.shape[1]))[own]]
        return found


class FlatRowsWriter:
    """Takes rows, some at a time; more of them than stay in memory go to a file of this process."""

    def __init__(self) -> None:
        self._lengths: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self._held: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self._count = 0
        self._open = ExitStack()
        self._file: tuple[Path, IO[bytes]] | None = None

    def __enter__(self) -> FlatRowsWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        """Rows behind those that are there.

        Raises:
            MachineError: E0802, E0803 where the cache folder cannot take them.
        """
        self._lengths.append(np.fromiter(map(len, rows), np.int64, len(rows)))
        entries = np.fromiter(chain.from_iterable(rows), np.int64)
        self._count += len(entries)
        self._held.append(entries)
        if self._file is None and not fits((self._count,), torch.int64):
            self._file = self._open.enter_context(scratch_file(".rows"))
        if self._file is not None:
            for part in self._held:
                self._file[1].write(part.tobytes())
            self._held.clear()

    def finished(self) -> FlatRows:
        """All rows."""
        self._open.close()
        lengths = torch.from_numpy(np.concatenate([*self._lengths, np.empty(0, np.int64)]))
        if self._file is None:
            entries: Rows = torch.from_numpy(np.concatenate([*self._held, np.empty(0, np.int64)]))
        else:
            entries = FileRows(FileArray(self._file[0], 0, (self._count,), (8,), torch.int64))
        return FlatRows(entries, lengths)


class RowWriter:
    """Takes rows of one shape, one at a time; more of them than stay in memory go to a file of this process.

    Args:
        count: How many there will be.
        dtype: Of them.
    """

    def __init__(self, count: int, dtype: torch.dtype) -> None:
        self._count = count
        self._dtype = dtype
        self._open = ExitStack()
        self._shape: tuple[int, ...] | None = None
        self._held: Tensor | None = None
        self._file: tuple[Path, IO[bytes]] | None = None
        self._done = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    def add(self, row: Tensor) -> None:
        """The next row.

        Raises:
            MachineError: E0802, E0803 where the cache folder cannot take it.
        """
        if self._shape is None:
            self._shape = (self._count, *row.shape)
            if fits(self._shape, self._dtype):
                self._held = torch.empty(self._shape, dtype=self._dtype)
            else:
                self._file = self._open.enter_context(scratch_file(".rows"))
        if self._held is not None:
            self._held[self._done] = row
        elif self._file is not None:
            self._file[1].write(row.to(self._dtype).contiguous().numpy().tobytes())
        self._done += 1

    def finished(self) -> Rows:
        """All rows."""
        self._open.close()
        if self._held is not None:
            return self._held
        assert self._file is not None
        assert self._shape is not None
        size = self._dtype.itemsize
        strides = strides_of(self._shape, size)
        return FileRows(FileArray(self._file[0], 0, self._shape, strides, self._dtype))
