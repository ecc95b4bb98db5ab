"""Where the numbers of npy files and of members of npz files are; headers are checked, nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.free_memory import gibibytes
from curvlang.diagnostics.refusal import refusal
from curvlang.models.files.file_columns import AXES, parsing, unreadable
from curvlang.models.sources.file_rows import FileArray, strides_of

SAVE = "write arrays of numbers with `np.savez`; pickled objects are not loaded"
SUFFIX = ".npy"
KINDS = {
    np.dtype(name): getattr(torch, str(np.dtype(name)))
    for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "?")
}
"""Numbers of numpy that torch knows, in this machine's order of bytes."""

_MAGIC = b"\x93NUMPY"
_PIECE = 2**20
_LOCAL_HEADER = 30
"""Bytes before the name of a member, in which its own header's lengths are."""


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What an npy file says of its array.

    Args:
        shape: Of the array.
        fortran: Whether the first axis is the fastest.
        dtype: Of its numbers.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of all numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path, name: str, file: IO[bytes], length: int) -> NpyHeader:
    """The header of an array; what it declares is compared with what is there.

    Args:
        path: For messages.
        name: Of the array, likewise.
        file: At the first byte of the header; left at the first number.
        length: Bytes of header and numbers.

    Raises:
        SpecError: E0552.
    """
    start = file.tell()
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the npy format is not read")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    header = NpyHeader(*read(file))
    if header.dtype.hasobject or header.dtype.kind not in "iufbU" or not header.dtype.itemsize:
        raise unreadable(path, f"`{name}` holds `{header.dtype}`", SAVE)
    shape = header.shape
    if len(shape) > AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise unreadable(path, f"`{name}` declares the shape {list(shape)}")
    there = length - (file.tell() - start)
    if header.size != there:
        raise unreadable(
            path,
            f"`{name}` declares {gibibytes(header.size)} of numbers, and {gibibytes(there)} are there",
        )
    return header


def npy_array(path: Path) -> FileArray:
    """The array of an npy file.

    Raises:
        SpecError: E0552 for a damaged file, E0851 for an array that is not numbers.
    """
    with parsing(path, "write it again with `np.save`"), path.open("rb") as file:
        header = read_header(path, path.name, file, path.stat().st_size)
        return _array(path, path.name, header, file.tell())


def npz_array(path: Path, name: str) -> FileArray | None:
    """A member of an npz file; None where it is compressed, so that no row has a place of its own.

    Its checksum is compared: the file is read once, in pieces.

    Raises:
        SpecError: E0552 for a damaged file, E0851 for an array that is not numbers.
    """
    with parsing(path, SAVE), zipfile.ZipFile(path) as archive, path.open("rb") as file:
        info = archive.getinfo(name + SUFFIX)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER)
        lengths = (int.from_bytes(local[k : k + 2], "little") for k in (26, 28))
        start = file.seek(sum(lengths), 1)
        if _checksum(file, info.file_size) != info.CRC:
            raise unreadable(path, f"the checksum of `{name}` is another one", SAVE)
        file.seek(start)
        header = read_header(path, name, file, info.file_size)
        return _array(path, name, header, file.tell())


def npz_names(path: Path) -> list[str]:
    """The arrays of an npz file.

    Raises:
        SpecError: E0552 for another file, a damaged one, and members that are not arrays.
    """
    with parsing(path, SAVE), path.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            raise unreadable(path, "it is a single array, no npz file", "use `np.savez`")
        with zipfile.ZipFile(file) as archive:
            members = [info.filename for info in archive.infolist()]
    odd = next((name for name in members if not name.endswith(SUFFIX)), None)
    if odd is not None:
        raise unreadable(path, f"`{odd}` in it is not an array", SAVE)
    names = [name.removesuffix(SUFFIX) for name in members]
    if len(set(names)) < len(names):
        raise unreadable(path, "two arrays in it have one name", "give each its own name")
    return names


def _checksum(file: IO[bytes], size: int) -> int:
    found = 0
    while size > 0 and (piece := file.read(min(_PIECE, size))):
        found = zlib.crc32(piece, found)
        size -= len(piece)
    return found


def _array(path: Path, name: str, header: NpyHeader, offset: int) -> FileArray:
    native = header.dtype.newbyteorder("=")
    if native not in KINDS:
        raise refusal(
            Code.E0851,
            f"`{name}` of `{path}` holds `{header.dtype}`",
            "write integers or floating-point numbers of at most eight bytes",
        )
    size = header.dtype.itemsize
    strides = strides_of(header.shape, size, fortran=header.fortran)
    swapped = not header.dtype.isnative
    return FileArray(path, offset, header.shape, strides, KINDS[native], swapped)


def map_array(value: object) -> FileArray | None:
    """Where the numbers of a memory map of numpy, or of a view of one, are; None for all else.

    A view may leave out rows, reverse or exchange axes, or be a field of records.
    """
    root = _root(value)
    if root is None or not isinstance(value, np.ndarray) or root.filename is None:
        return None
    native = value.dtype.newbyteorder("=")
    # What is written to a private copy of the pages is not in the file.
    if native not in KINDS or root.mode == "c" or not value.ndim:
        return None
    if root.flags.writeable:
        root.flush()
    start = int(root.offset) + value.ctypes.data - root.ctypes.data
    path, swapped = Path(str(root.filename)), not value.dtype.isnative
    return FileArray(path, start, value.shape, value.strides, KINDS[native], swapped)


def _root(value: object) -> np.memmap[Any, Any] | None:
    """The whole memory map that a view is of."""
    found = None
    while isinstance(value, np.ndarray):
        found = value if isinstance(value, np.memmap) else None
        value = value.base
    # A map that was made from something else than a file ends in memory of its own.
    return found if type(value).__name__ == "mmap" else None
