"""Arrow files as rows: mapped into memory, read when they are asked for, and let go of after every reading."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.models.data.rows import Places, StoredRows, numbers_of
from curvlang.models.sources.arrow_columns import arrow_values
from curvlang.models.sources.file_rows import changed, file_state
from curvlang.storage.scratch import scratch_file

ROWS = 4096
"""Rows of a table that are written together."""


class ArrowFiles:
    """The table in Arrow's stream files, one behind the other.

    Pages of a map count as memory of the process: they are let go of when rows have been copied.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        import pyarrow as pa

        self._maps = [_mapped(path) for path in paths]
        self._states = {path: file_state(path) for path in paths}
        tables = []
        for own in self._maps:
            with pa.ipc.open_stream(pa.BufferReader(pa.py_buffer(own))) as stream:
                tables.append(stream.read_all())
        self.table: Any = pa.concat_tables(tables)

    def check(self) -> None:
        """Refuse files that have changed: of one that was cut the system would end the process.

        Raises:
            SpecError: E0850.
        """
        for path, state in self._states.items():
            if file_state(path) != state:
                raise changed(path)

    def release(self) -> None:
        """Let go of the pages that were read."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for own in self._maps:
                own.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class ArrowRows(StoredRows):
    """A column whose rows have one shape, in Arrow's files; integers and truth values are given in int64.

    Args:
        files: Its table.
        column: The column's place in it.
    """

    def __init__(self, files: ArrowFiles, column: int) -> None:
        self.files = files
        self.column = files.table.column(column)
        first = _level(self.column.slice(0, 1))
        super().__init__((len(self.column), *first.shape[1:]), first.dtype)
        self._starts = torch.tensor([0, *(len(x) for x in self.column.chunks)]).cumsum(0)

    def read(self, places: Places) -> Tensor:
        """Rows of the column, copied."""
        self.files.check()
        if isinstance(places, range) and places.step == 1:
            found = _level(self.column.slice(places.start, len(places)))
        else:
            found = self._gathered(numbers_of(places))
        self.files.release()
        return found.reshape(len(places), *self.shape[1:])

    def _gathered(self, numbers: Tensor) -> Tensor:
        """Rows in any order: taken chunk by chunk, since Arrow would join all chunks first."""
        found = torch.empty((len(numbers), *self.shape[1:]), dtype=self.dtype)
        owners = torch.bucketize(numbers, self._starts[1:], right=True)
        for k in owners.unique().tolist():
            own = owners == k
            places = (numbers[own] - self._starts[k]).numpy()
            found[own] = _level(self.column.chunk(k).take(places)).reshape(-1, *self.shape[1:])
        return found


def _level(column: Any) -> Tensor:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found = arrow_values(column).level()
    return found.to(torch.int64) if found.dtype == torch.bool else found


def written_as_arrow(batches: Iterable[Any], schema: Any) -> ArrowFiles:
    """Record batches in a file of their own, which stays as long as the process.

    Raises:
        MachineError: E0802, E0803 where the cache folder cannot take them.
    """
    import pyarrow as pa

    with scratch_file(".arrow") as (path, file), pa.ipc.new_stream(file, schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    return ArrowFiles([path])


def chunks_of(files: ArrowFiles, column: int) -> Iterator[Any]:
    """The chunks of a column with the number of their first row; each let go of behind it."""
    start = 0
    for chunk in files.table.column(column).chunks:
        yield start, chunk
        start += len(chunk)
        files.release()
