"""Rows of an array in a file, read at their place: any order of axes and bytes, checked against changes.

Files are not mapped into memory: a mapped file that is cut ends the process, and pages of a map count
as memory of the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.derived_rows import MappedRows, fits
from curvlang.models.data.rows import Places, StoredRows, numbers_of

NEAR = 4096
"""Bytes between two rows that are read with them: as long as one more call of the system takes."""
AT_ONCE = 2**23
"""Bytes of a file that are read together where they are not read into their place."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class FileArray:
    """An array of numbers in a file.

    Args:
        path: The file.
        offset: Where entry [0, 0, …] is, in bytes.
        shape: [N, …].
        strides: Bytes from an entry to the next one, along every axis.
        dtype: Of the numbers in the file.
        swapped: Whether their bytes are in the other order than this machine's.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    swapped: bool = False

    @property
    def range_of_row(self) -> tuple[int, int]:
        """Where a row's entries are, from its first one: the lowest byte, and the one behind the highest."""
        return _range(self.shape[1:], self.strides[1:], self.dtype.itemsize)

    @property
    def is_by_rows(self) -> bool:
        """Whether fewer bytes are read where rows are read one by one than number by number."""
        low, high = self.range_of_row
        entries = torch.Size(self.shape[1:]).numel()
        return high - low <= entries * max(abs(self.strides[0]), self.dtype.itemsize)


def _range(shape: Sequence[int], strides: Sequence[int], size: int) -> tuple[int, int]:
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    return sum(min(0, x) for x in steps), sum(max(0, x) for x in steps) + size


def strides_of(shape: Sequence[int], size: int, *, fortran: bool = False) -> tuple[int, ...]:
    """Bytes between entries that lie one behind the other.

    Args:
        shape: Of the array.
        size: Bytes of a number.
        fortran: Whether the first axis is the fastest.
    """
    found = []
    for n in shape if fortran else reversed(shape):
        found.append(size)
        size *= n
    return tuple(found if fortran else reversed(found))


class FileRows(StoredRows):
    """Rows of an array in a file.

    Integers are given in int64, floating-point numbers in the file's own precision.

    Args:
        array: Where its numbers are.

    Raises:
        SpecError: E0850, also when rows are read, where the file is not what it was.
    """

    def __init__(self, array: FileArray) -> None:
        super().__init__(array.shape, given_dtype(array.dtype))
        self.array = array
        self.state = file_state(array.path)

    def read(self, places: Places) -> Tensor:
        """The rows at their places in the file."""
        array = self.array
        found = torch.empty((len(places), *array.shape[1:]), dtype=array.dtype)
        if found.numel():
            memory = found.view(-1).view(torch.uint8).numpy()
            with _FileReader(array.path, self.state) as reader:
                _Rows(array, reader).read_into(memory, places)
            if array.swapped:
                memory.view(f"u{array.dtype.itemsize}").byteswap(inplace=True)
        given = found.to(self.dtype)
        if array.dtype == torch.uint64 and bool((given < 0).any()):
            raise refusal(
                Code.E0407,
                f"`{array.path}` holds integers beyond int64",
                "give them as floating-point numbers",
            )
        return given


def column_in_file(array: FileArray) -> StoredRows | None:
    """An array as a column that stays in its file; None where it is small.

    Truth values are integers there, like all that is not a floating-point number.
    """
    rows = FileRows(array)
    if fits(rows.shape, rows.dtype):
        return None
    if rows.dtype != torch.bool:
        return rows
    return MappedRows((rows,), lambda x: x.to(torch.int64), rows.shape[1:], torch.int64)


def given_dtype(kind: torch.dtype) -> torch.dtype:
    """In which numbers of a file are given."""
    if kind.is_floating_point:
        # Kinds of one byte have next to no functions in torch.
        return kind if kind.itemsize > 1 else torch.float32
    return kind if kind == torch.bool else torch.int64


class _FileReader:
    """A file whose bytes are read, with a check that it is what it was."""

    def __init__(self, path: Path, state: FileState) -> None:
        self.path = path
        self.state = state

    def __enter__(self) -> _FileReader:
        try:
            self.file: IO[bytes] = self.path.open("rb", buffering=0)
        except OSError as error:
            raise _lost(self.path, error) from error
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # Asked after the bytes are there: a change before or while they were read shows.
        found = FileState.of(os.fstat(self.file.fileno()))
        self.file.close()
        if kind is None and found != self.state:
            raise changed(self.path)

    def fill(self, memory: Bytes, start: int) -> None:
        """Read bytes from a place on, as many as there is memory for."""
        # Arrays are buffers; before Python 3.12 their types do not say so.
        view = memoryview(cast(Any, memory))
        try:
            self.file.seek(start)
            while len(view):
                count = self.file.readinto(view)  # type: ignore[attr-defined]
                if not count:
                    raise changed(self.path)
                view = view[count:]
        except OSError as error:
            raise _lost(self.path, error) from error


@dataclass(frozen=True, slots=True)
class FileState:
    """What shows that a file has changed.

    Args:
        size: In bytes.
        time: When it was last written to, in nanoseconds.
    """

    size: int
    time: int

    @staticmethod
    def of(found: os.stat_result) -> FileState:
        """From what the system says of a file."""
        return FileState(found.st_size, found.st_mtime_ns)


def file_state(path: Path) -> FileState:
    """A file as it is now.

    Raises:
        SpecError: E0850 where it cannot be looked at.
    """
    try:
        return FileState.of(path.stat())
    except OSError as error:
        raise _lost(path, error) from error


def changed(path: Path) -> SpecError:
    """E0850: a file that other rows were read from before."""
    return refusal(
        Code.E0850,
        f"`{path}` has changed since its rows were opened",
        "write new data to another file, and leave this one as it is until the run has ended",
        notes=("examples are read several times: every reading must give the same numbers",),
    )


def _lost(path: Path, error: OSError) -> SpecError:
    return refusal(
        Code.E0850,
        f"`{path}` can no longer be read: {(error.strerror or str(error)).lower()}",
        "leave the file where it is until the run has ended",
        notes=("examples stay in their file, and are read several times",),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """How rows of an array are read from its file.

    Args:
        array: Where its numbers are.
        reader: Of the file.
    """

    array: FileArray
    reader: _FileReader

    def read_into(self, memory: Bytes, places: Places) -> None:
        """Read rows into the memory [B · bytes of a row] in their order."""
        array = self.array
        row = torch.Size(array.shape[1:]).numel() * array.dtype.itemsize
        plain = array.strides == strides_of(array.shape, array.dtype.itemsize)
        if plain and isinstance(places, range) and places.step == 1:
            self.reader.fill(memory, array.offset + places.start * row)
            return
        numbers = np.asarray(numbers_of(places).numpy(), np.int64)
        order = np.argsort(numbers, kind="stable")
        if array.is_by_rows:
            self._fill(memory.reshape(len(numbers), row), numbers, order, array.shape[1:])
            return
        size = array.dtype.itemsize
        entries = memory.reshape(len(numbers), -1, size)
        for k, place in enumerate(product(*map(range, array.shape[1:]))):
            shift = sum(i * s for i, s in zip(place, array.strides[1:], strict=True))
            self._fill(entries[:, k], numbers, order, (), shift)

    def _fill(
        self,
        out: Bytes,
        numbers: Numbers,
        order: Numbers,
        shape: tuple[int, ...],
        shift: int = 0,
    ) -> None:
        """Read the same entries of every row, [B, bytes of them], in rising order of the rows."""
        array, size = self.array, self.array.dtype.itemsize
        step, strides = array.strides[0], array.strides[1:][: len(shape)]
        low, high = _range(shape, strides, size)
        for part in _near(numbers[order], abs(step), high - low):
            own = order[part]
            first, last = int(numbers[own[0]]), int(numbers[own[-1]])
            start = min(first * step, last * step)
            held = np.empty((last - first) * abs(step) + high - low, np.uint8)
            self.reader.fill(held, array.offset + shift + start + low)
            rows: Bytes = np.lib.stride_tricks.as_strided(
                held[first * step - start - low :],
                (last - first + 1, *shape, size),
                (step, *strides, 1),
                writeable=False,
            )
            out[own] = rows[numbers[own] - first].reshape(len(own), -1)


def _near(rising: Numbers, step: int, size: int) -> Iterator[slice]:
    """Rows that are read together: consecutive ones with few bytes between them."""
    breaks = np.flatnonzero(np.diff(rising) * step - size > NEAR) + 1
    most = max(1, (AT_ONCE - size) // max(1, step))
    for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rising)], strict=True):
        at = begin
        while at < end:
            stop = int(np.searchsorted(rising[at:end], rising[at] + most, side="left")) + at
            yield slice(at, stop)
            at = stop
