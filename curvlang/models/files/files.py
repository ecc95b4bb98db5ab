"""Files of examples as named columns: npz, csv, tsv, parquet, safetensors. No code in them is run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.files.dataset_folder import read_dataset
from curvlang.models.files.file_columns import (
    AXES,
    LARGEST,
    Column,
    Table,
    parsing,
    require_room,
    unreadable,
)
from curvlang.models.files.npz import read_npz
from curvlang.models.files.parquet import read_parquet
from curvlang.models.sources.file_rows import column_in_file
from curvlang.models.sources.safetensors_files import safetensors_names, safetensors_place

TABLES = (".csv", ".tsv", ".parquet")
"""Files whose columns are numbers of one kind: integers are read as numbers like others."""

_PER_BYTE = 8
"""Bytes of memory for a byte of a table in text, at least: its fields are objects of their own."""


def read_table(path: Path) -> Table:
    """Every column of a file, by the suffix of its name, or of a folder that `save_to_disk` has written.

    Raises:
        SpecError: E0552 for a file that is missing, of an unknown kind, damaged, empty or ragged,
            or that needs a package that is not there; also when a column is asked for that holds
            neither numbers nor texts, or does not fit in memory.
    """
    reader = read_dataset if is_folder(path) else READERS.get(path.suffix.lower())
    if reader is None:
        raise refusal(
            Code.E0552,
            f"`{path}`: files called `*{path.suffix}` are not read",
            f"write the examples as one of {', '.join(READERS)}",
        )
    if reader is not read_dataset:
        check_file(path, Code.E0552, "give the path of a file of examples")
    table = reader(path)
    if not table:
        raise unreadable(path, "it holds no column")
    return table


def is_folder(path: Path) -> bool:
    """Whether it is one; a name that no file can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def check_file(path: Path, code: Code, repair: str) -> None:
    """Refuse what is not a file: a folder, a pipe, a device, a name that no file can have.

    Args:
        path: What is to be read.
        code: Of the diagnostic.
        repair: What to give in its place.

    Raises:
        SpecError: With the code.
    """
    try:
        if path.is_file():
            return
        there = path.exists()
    except (OSError, ValueError) as error:
        shown = str(path) if len(str(path)) <= 80 else f"{str(path)[:80]}…"
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise refusal(code, f"`{shown}` cannot be opened: {why}", repair) from error
    what = (
        "is a folder" if path.is_dir() else "is not a regular file" if there else "does not exist"
    )
    raise refusal(code, f"`{path}` {what}", repair)


def _safetensors(path: Path) -> Table:
    return Table(safetensors_names(path), lambda name: _tensor(path, name))


def _tensor(path: Path, name: str) -> Rows:
    from safetensors import safe_open

    with parsing(path), safe_open(path, framework="pt") as held:
        where = safetensors_place(path, name)
        kept = None if where is None or not where.shape else column_in_file(where)
        if kept is not None:
            return kept
        value: Tensor = held.get_tensor(name)
        require_room(path, f"`{name}`", 8 * value.numel())
        if value.ndim > AXES:
            raise unreadable(path, f"`{name}` has {value.ndim} axes", f"write at most {AXES}")
        if value.is_complex():
            raise unreadable(
                path, f"`{name}` holds `{value.dtype}`", "write integers or floating-point numbers"
            )
        if value.is_floating_point():
            # Kinds of one byte have next to no functions in torch.
            return value if value.dtype.itemsize > 1 else value.to(torch.float32)
        if value.dtype == torch.uint64 and value.numel() and int(value.numpy().max()) > LARGEST:
            raise unreadable(path, f"`{name}` has integers beyond 2⁶³", "write smaller numbers")
        return value.to(torch.int64)


def _delimited(delimiter: str) -> Callable[[Path], Table]:
    def reader(path: Path) -> Table:
        with parsing(path):
            size = path.stat().st_size
        require_room(path, "it", _PER_BYTE * size)
        rows = _rows(path, _text(path), delimiter)
        return _columns(path, rows)

    return reader


def _text(path: Path) -> str:
    try:
        with parsing(path):
            content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable(
            path, f"it is not text (byte {error.start} is not UTF-8)", "write it as UTF-8"
        ) from error
    if "\0" in text:
        raise unreadable(path, "it is not text (it has zero bytes)", "write it as UTF-8")
    return text


def _rows(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Rows that are not empty, each with the number of the line it ends on."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise unreadable(path, f"line {rows.line_num}: {error}") from error


def _columns(path: Path, rows: list[tuple[int, list[str]]]) -> Table:
    """Columns under the names of the first row."""
    if not rows:
        raise unreadable(path, "it is empty", "write a first row of column names, then the rows")
    (_, header), *body = rows
    names = [name.strip() for name in header]
    if len(set(names)) < len(names) or not all(names):
        raise unreadable(
            path, "its first row does not name every column once", "give each column a name"
        )
    for line, row in body:
        if len(row) != len(names):
            raise unreadable(
                path,
                f"line {line} has {len(row)} fields, the first row names {len(names)}",
                "give every row a value for every column",
            )
    place = {name: k for k, name in enumerate(names)}
    return Table(names, lambda name: _numbers([row[place[name]].strip() for _, row in body]))


def _numbers(cells: list[str]) -> Column:
    """Integers where all cells are, numbers where all are, else the texts."""
    if any("_" in cell for cell in cells):
        # Python reads `1_0` as ten; in a table it is a name.
        return cells
    kinds: tuple[tuple[Callable[[str], Any], torch.dtype], ...] = (
        (int, torch.int64),
        (float, torch.float64),
    )
    for kind, dtype in kinds:
        try:
            values = [kind(cell) for cell in cells]
        except ValueError:
            continue
        if dtype is torch.int64 and any(abs(v) > LARGEST for v in values):
            continue
        return torch.tensor(values, dtype=dtype)
    return cells


READERS: Mapping[str, Callable[[Path], Table]] = {
    ".npz": read_npz,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": read_parquet,
    ".safetensors": _safetensors,
}
"""What reads a file, by its suffix."""
