"""NumPy arrays as `.npy` and `.npz`: the same numbers give the same bytes, and a full disk is known as one.

An `.npy` file can be written in parts, never held whole; it takes its name when all of it is there.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from curvlang.storage.atomic import Destination, whole

_NOTE = "nothing was left behind, and an earlier file of that name is unchanged"


@dataclass(frozen=True, slots=True)
class _Sink:
    """A file by its `write` alone.

    NumPy writes what it knows to be a file by itself, and then a full disk is an `OSError`
    without a number, which cannot be told from any other.
    """

    write: Callable[[bytes], int]


def write_npy(file: IO[bytes], array: NDArray[Any]) -> None:
    """Write one array, row by row, as `numpy.load` reads it."""
    np.lib.format.write_array(_Sink(file.write), np.ascontiguousarray(array), allow_pickle=False)


def write_npz(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write several arrays by name, without dates, as `numpy.load` reads an archive."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)


@dataclass(frozen=True, slots=True, eq=False)
class NpyParts:
    """An open file.

    Args:
        file: It.
        start: Where the numbers begin.
        shape: Of the whole array.
        dtype: Of its numbers.
        destination: What a refusal of the system names.
    """

    file: IO[bytes]
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    destination: Destination

    def write(self, place: Sequence[slice], array: NDArray[Any]) -> None:
        """Write a part: some of the first axis, and of the second where there are two or more.

        Args:
            place: Slices of the leading axes; the others are whole.
            array: Its numbers.
        """
        # Rows of the part lie apart in the file, each of them in one piece.
        *first, last = place
        each = prod(self.shape[len(place) :])
        flat = np.ascontiguousarray(array, self.dtype).reshape(-1, (last.stop - last.start) * each)
        rows = range(first[0].start, first[0].stop) if first else range(1)
        row = self.shape[len(place) - 1] * each
        with self.destination.refusals(prod(self.shape) * self.dtype.itemsize):
            for k, numbers in zip(rows, flat, strict=True):
                self.file.seek(self.start + (k * row + last.start * each) * self.dtype.itemsize)
                self.file.write(numbers.tobytes())


@contextmanager
def npy_parts(path: Path, shape: tuple[int, ...], dtype: str) -> Iterator[NpyParts]:
    """A file for an array of a known shape; whole or not at all.

    Its place on the disk is taken at once: a disk that is too small is known before the work.

    Raises:
        SpecError: E0585 where the system does not let it be written.
        MachineError: E0802 where the disk is full.
    """
    kind = np.dtype(dtype)
    size = prod(shape) * kind.itemsize
    destination = Destination(path, "scores", _NOTE)
    with destination.refusals(size), whole(path) as part, part.open("r+b") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(kind),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        _reserve(file, start + size)
        yield NpyParts(file, start, shape, kind, destination)


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the place on the disk, where the system can; else the file alone grows."""
    file.flush()
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)
