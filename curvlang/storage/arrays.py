"""NumPy arrays as `.npy` and `.npz`: the same numbers give the same bytes, and a full disk is known as one."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


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
