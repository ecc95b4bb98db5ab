"""npz files: headers are read and checked first, then the arrays that are asked for; nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from curvlang.diagnostics.free_memory import gibibytes
from curvlang.models.files.file_columns import (
    AXES,
    Column,
    Table,
    column_of,
    parsing,
    require_room,
    unreadable,
)

_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_PIECE = 2**20
_SAVE = "write arrays of numbers with `np.savez`; pickled objects are not loaded"

Array = np.ndarray[Any, Any]


def read_npz(path: Path) -> Table:
    """The arrays of an npz file.

    Raises:
        SpecError: E0552 for another file, a damaged one, and members that are not arrays.
    """
    with parsing(path, _SAVE), path.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise unreadable(path, "it is a single array, no npz file", "use `np.savez`")
        with zipfile.ZipFile(file) as archive:
            members = [info.filename for info in archive.infolist()]
    odd = next((name for name in members if not name.endswith(_SUFFIX)), None)
    if odd is not None:
        raise unreadable(path, f"`{odd}` in it is not an array", _SAVE)
    names = [name.removesuffix(_SUFFIX) for name in members]
    if len(set(names)) < len(names):
        raise unreadable(path, "two arrays in it have one name", "give each its own name")
    return Table(names, lambda name: _column(path, name))


def _column(path: Path, name: str) -> Column:
    with parsing(path, _SAVE), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name + _SUFFIX)
        with archive.open(info) as member:
            array = _array(path, name, member, info.file_size)
    return column_of(path, name, array)


def _array(path: Path, name: str, member: IO[bytes], length: int) -> Array:
    """One array; what its header declares is compared with what is there before it is allocated."""
    shape, fortran, dtype = _header(member)
    if dtype.hasobject or dtype.kind not in "iufbU" or not dtype.itemsize:
        raise unreadable(path, f"`{name}` holds `{dtype}`", _SAVE)
    if len(shape) > AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise unreadable(path, f"`{name}` declares the shape {list(shape)}")
    needed, there = math.prod(shape) * dtype.itemsize, length - member.tell()
    if needed != there:
        raise unreadable(
            path,
            f"`{name}` declares {gibibytes(needed)} of numbers, and {gibibytes(there)} are there",
        )
    require_room(path, f"`{name}`", max(needed, 8 * math.prod(shape)))
    array: Array = np.empty(math.prod(shape), dtype)
    _fill(array, member)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the npy format is not read")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(member)


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
