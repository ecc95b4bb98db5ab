"""Files of examples as named columns: npz, csv, tsv, parquet, safetensors. No code in them is run."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from curvlang.models.refusal import refusal

Column: TypeAlias = "Tensor | list[str]"
"""Numbers [N, …] (integers int64, others in the file's precision), or N texts."""
Table: TypeAlias = Mapping[str, Column]

TABLES = (".csv", ".tsv", ".parquet")
"""Files whose columns are numbers of one kind: integers are read as numbers like others."""


def read_table(path: Path) -> Table:
    """Every column of a file, by the suffix of its name.

    Raises:
        SpecError: E0552 for a file that is missing, of an unknown kind, damaged, empty or ragged,
            or that needs a package that is not there.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise refusal(
            "E0552",
            f"`{path}`: files called `*{path.suffix}` are not read",
            f"write the examples as one of {', '.join(READERS)}",
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise refusal("E0552", f"`{path}` {what}", "give the path of a file of examples")
    try:
        table = reader(path)
    except OSError as error:
        raise _unreadable(path, str(error.strerror or error)) from error
    if not table:
        raise _unreadable(path, "it holds no column")
    return table


def _unreadable(path: Path, why: str, repair: str = "") -> Exception:
    return refusal(
        "E0552", f"`{path}` cannot be read: {why}", repair or "write the file again, and check it"
    )


def _npz(path: Path) -> Table:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise _unreadable(path, "it is a single array, no npz file", "use `np.savez`")
        with loaded as held:
            return {name: _array(path, name, held[name]) for name in held.files}
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        why = str(error).split("\n")[0].rstrip(".")
        raise _unreadable(
            path, why, "write arrays of numbers with `np.savez`; pickled objects are not loaded"
        ) from error


def _safetensors(path: Path) -> Table:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        held = load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, f"it is no safetensors file ({error})") from error
    return {name: _integers(value) for name, value in held.items()}


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise _unreadable(
            path,
            "parquet files need `pyarrow`, which is not installed",
            'install it with `pip install "curvlang[parquet]"`, or write csv or npz',
        ) from error
    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise _unreadable(path, str(error).split("\n")[0]) from error
    return {
        name: _values(path, name, table.column(name).to_pylist()) for name in table.column_names
    }


def _values(path: Path, name: str, values: Sequence[Any]) -> Column:
    """A parquet column: numbers, lists of numbers of one length, or texts."""
    empty = next((k for k, v in enumerate(values) if v is None), None)
    if empty is not None:
        raise _unreadable(
            path, f"column `{name}` has no value at row {empty}", "drop or fill these rows"
        )
    if all(isinstance(v, str) for v in values):
        return list(values)
    try:
        return _array(path, name, np.asarray(values))
    except ValueError as error:
        raise _unreadable(
            path,
            f"the lists of column `{name}` differ in length",
            "pad them to one length",
        ) from error


def _array(path: Path, name: str, value: np.ndarray[Any, Any]) -> Column:
    if value.dtype.kind == "U":
        if value.ndim == 1:
            return [str(x) for x in value]
        raise _unreadable(path, f"`{name}` is an array of texts with {value.ndim} axes")
    if value.dtype.kind not in "iufb" or value.dtype.itemsize > 8:
        raise _unreadable(
            path, f"`{name}` holds `{value.dtype}`", "write integers or floating-point numbers"
        )
    if value.dtype.kind == "u" and value.size and int(value.max()) > 2**63 - 1:
        raise _unreadable(path, f"`{name}` has integers beyond 2⁶³", "write smaller numbers")
    native = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
    if value.dtype.kind in "iub":
        native = native.astype(np.int64)
    return torch.from_numpy(native)


def _integers(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.to(torch.int64)


def _delimited(delimiter: str) -> Callable[[Path], Table]:
    def reader(path: Path) -> Table:
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _unreadable(
                path, f"it is not text (byte {error.start} is not UTF-8)", "write it as UTF-8"
            ) from error
        if "\0" in text:
            raise _unreadable(path, "it is not text (it has zero bytes)", "write it as UTF-8")
        try:
            rows = list(csv.reader(text.splitlines(), delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise _unreadable(path, str(error)) from error
        return _columns(path, rows)

    return reader


def _columns(path: Path, rows: list[list[str]]) -> Table:
    """Columns under the names of the first row; lines are counted as editors do."""
    numbered = [(k, row) for k, row in enumerate(rows, 1) if row]
    if not numbered:
        raise _unreadable(path, "it is empty", "write a first row of column names, then the rows")
    (_, header), *body = numbered
    names = [name.strip() for name in header]
    if len(set(names)) < len(names) or not all(names):
        raise _unreadable(
            path, "its first row does not name every column once", "give each column a name"
        )
    for line, row in body:
        if len(row) != len(names):
            raise _unreadable(
                path,
                f"line {line} has {len(row)} fields, the first row names {len(names)}",
                "give every row a value for every column",
            )
    return {name: _numbers([row[k].strip() for _, row in body]) for k, name in enumerate(names)}


def _numbers(cells: list[str]) -> Column:
    """Integers where all cells are, numbers where all are, else the texts."""
    for kind, dtype in ((int, torch.int64), (float, torch.float64)):
        try:
            values = [kind(cell) for cell in cells]
        except ValueError:
            continue
        if dtype is torch.int64 and any(abs(v) > 2**53 for v in values if not math.isnan(v)):
            continue
        return torch.tensor(values, dtype=dtype)
    return cells


READERS: Mapping[str, Callable[[Path], Table]] = {
    ".npz": _npz,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
"""What reads a file, by its suffix."""
