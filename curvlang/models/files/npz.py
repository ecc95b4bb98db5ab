"""npz files: headers are read and checked first, then the arrays that are asked for; nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from curvlang.models.data.derived_rows import fits
from curvlang.models.data.rows import StoredRows
from curvlang.models.files.file_columns import Column, Table, column_of, parsing, require_room
from curvlang.models.sources.file_rows import column_in_file, given_dtype
from curvlang.models.sources.npy_files import (
    KINDS,
    SAVE,
    SUFFIX,
    NpyHeader,
    npz_array,
    npz_names,
    read_header,
)

_PIECE = 2**20

Array = np.ndarray[Any, Any]


def read_npz(path: Path) -> Table:
    """The arrays of an npz file.

    Raises:
        SpecError: E0552 for another file, a damaged one, and members that are not arrays.
    """
    return Table(npz_names(path), lambda name: _column(path, name))


def _column(path: Path, name: str) -> Column:
    with parsing(path, SAVE), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name + SUFFIX)
        with archive.open(info) as member:
            header = read_header(path, name, member, info.file_size)
            kept = _in_file(path, name, header)
            if kept is not None:
                return kept
            array = _array(path, name, member, header)
    return column_of(path, name, array)


def _in_file(path: Path, name: str, header: NpyHeader) -> StoredRows | None:
    """The array where it is, if it is large and not compressed."""
    kind = KINDS.get(header.dtype.newbyteorder("="))
    if kind is None or not header.shape or fits(header.shape, given_dtype(kind)):
        return None
    where = npz_array(path, name)
    return None if where is None else column_in_file(where)


def _array(path: Path, name: str, member: IO[bytes], header: NpyHeader) -> Array:
    """One array, behind its header; whether it fits is asked before it is allocated."""
    numbers = math.prod(header.shape)
    require_room(path, f"`{name}`", max(header.size, 8 * numbers))
    array: Array = np.empty(numbers, header.dtype)
    _fill(array, member)
    shape = header.shape
    return array.reshape(shape[::-1]).T if header.fortran else array.reshape(shape)


def _fill(array: Array, member: IO[bytes]) -> None:
    """Read in pieces: the bytes are held once. Reading to the end has the archive's checksum tried."""
    if not array.size:
        return
    view = array.view(np.uint8).data
    at = 0
    while piece := member.read(_PIECE):
        view[at : at + len(piece)] = piece
        at += len(piece)
    if at != len(view):
        raise EOFError(f"{at} of {len(view)} bytes are there")


__all__ = ["read_npz"]
