"""Parquet files: a column at a time, by its declared type; what is not numbers or texts is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvlang.models.data.derived_rows import fits
from curvlang.models.files.file_columns import (
    LARGEST,
    Column,
    Table,
    column_of,
    parsing,
    require_room,
    unreadable,
)
from curvlang.models.sources.arrow_columns import is_list, is_numeric
from curvlang.models.sources.arrow_files import (
    ROWS,
    ArrowFiles,
    ArrowRows,
    chunks_of,
    written_as_arrow,
)

_WORD = 8
"""Bytes that a text takes which is there already, beside its own."""
_NUMBERS = "write integers, floating-point numbers, lists of them of one length, or texts"


def read_parquet(path: Path) -> Table:
    """The columns of a parquet file.

    Raises:
        SpecError: E0552 where pyarrow is not installed, and for a damaged file.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise unreadable(
            path,
            "parquet files need `pyarrow`, which is not installed",
            'install it with `pip install "curvlang[parquet]"`, or write csv or npz',
        ) from error
    with parsing(path), parquet.ParquetFile(path, memory_map=False) as file:
        names = list(file.schema_arrow.names)
        counts = _values(file.metadata, names)
    if len(set(names)) < len(names):
        raise unreadable(path, "two of its columns have one name", "give each its own name")
    return Table(names, _reader(path, names, counts))


def _values(metadata: Any, names: list[str]) -> dict[str, int]:
    """Numbers and texts in every column, those in lists one by one."""
    found = dict.fromkeys(names, 0)
    tops = [metadata.schema.column(k).path for k in range(metadata.num_columns)]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for k, path in enumerate(tops):
            # A dot may be of a name, or lead into a list or a structure.
            name = path if path in found else path.split(".")[0]
            found[name] = found.get(name, 0) + group.column(k).num_values
    return {name: max(found[name], metadata.num_rows) for name in names}


def _reader(path: Path, names: list[str], counts: dict[str, int]) -> Callable[[str], Column]:
    """Reads columns into memory, or keeps them in an Arrow file where all of them together are many."""
    kept: list[ArrowFiles] = []

    def read(name: str) -> Column:
        if fits((sum(counts.values()),), torch.float64):
            return _column(path, name, counts[name])
        if not kept:
            with parsing(path):
                kept.append(_as_arrow(path))
        return kept_column(path, name, kept[0], names.index(name))

    return read


def _as_arrow(path: Path) -> ArrowFiles:
    """The file's rows in Arrow's own form, which are found by their number: a part of them in memory at a time."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
        batches = file.iter_batches(batch_size=ROWS, use_threads=False)
        return written_as_arrow(batches, file.schema_arrow)


def _column(path: Path, name: str, values: int) -> Column:
    from pyarrow import parquet

    require_room(path, f"`{name}`", 8 * values)
    with parsing(path), parquet.ParquetFile(path, memory_map=False) as file:
        # By position: the library takes a dot in a name for a path into a structure.
        return arrow_column(path, name, _read(file, name))


def _read(file: Any, name: str) -> Any:
    found = file.read(columns=[name], use_threads=False)
    if name in found.column_names:
        return found.column(name)
    return file.read(use_threads=False).column(name)


def kept_column(path: Path, name: str, files: ArrowFiles, place: int) -> Column:
    """A column of mapped Arrow files: rows that stay there where they are many, else as `arrow_column`.

    Raises:
        SpecError: E0552 for other types, missing values and lists that differ in length.
    """
    import pyarrow as pa

    column = files.table.column(place)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    with parsing(path):
        if not len(column) or not (is_list(kind) or is_numeric(kind)):
            return arrow_column(path, name, column)
        lengths: set[tuple[int, ...]] = set()
        for start, chunk in chunks_of(files, place):
            lengths.add(_checked(path, name, chunk, start))
        if len(lengths - {()}) > 1:
            raise _unequal(path, name)
        rows = ArrowRows(files, place)
        # Many small columns are as much as a large one.
        return rows[:] if fits((files.table.nbytes,), torch.uint8) else rows


def _checked(path: Path, name: str, chunk: Any, start: int) -> tuple[int, ...]:
    """The shape of the rows of a chunk, none of which lacks a value."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(chunk.type):
        chunk = chunk.cast(chunk.type.value_type)
    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    _complete(path, name, chunk, start)
    numbers, shape = _opened_shape(path, name, chunk)
    if pa.types.is_uint64(numbers.type) and (compute.max(numbers).as_py() or 0) > LARGEST:
        raise unreadable(path, f"`{name}` has integers beyond 2⁶³", "write smaller numbers")
    return shape if len(chunk) else ()


def arrow_column(path: Path, name: str, column: Any) -> Column:
    """A column of an Arrow table: numbers, lists of numbers of one length, or texts.

    Raises:
        SpecError: E0552 for other types, missing values and lists that differ in length.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    _complete(path, name, column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        require_room(path, f"`{name}`", column.nbytes + _WORD * len(column))
        # Names of classes and of parts come again and again: each is held once.
        known: dict[str, str] = {}
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return [known.setdefault(x, x) for chunk in chunks for x in chunk.to_pylist()]
    return column_of(path, name, _numbers(path, name, column))


def _complete(path: Path, name: str, column: Any, start: int = 0) -> None:
    if column.null_count:
        row = start + column.is_null().to_numpy(zero_copy_only=False).argmax()
        raise unreadable(
            path, f"column `{name}` has no value at row {row + 1}", "drop or fill these rows"
        )


def _unequal(path: Path, name: str) -> Exception:
    return unreadable(
        path, f"the lists of column `{name}` differ in length", "pad them to one length"
    )


def _opened_shape(path: Path, name: str, column: Any) -> tuple[Any, tuple[int, ...]]:
    """The numbers in lists, opened level by level: each has one length, which becomes an axis."""
    import pyarrow as pa

    shape, kind = [], column.type
    while _is_list(kind):
        lengths = np.asarray(_lengths(column))
        if len(lengths) and (lengths != lengths[0]).any():
            raise _unequal(path, name)
        shape.append(int(lengths[0]) if len(lengths) else 0)
        column, kind = _opened(column), kind.value_type
        if column.null_count:
            raise unreadable(path, f"a list of column `{name}` has no value at a place", "fill it")
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise unreadable(path, f"column `{name}` holds `{kind}`", _NUMBERS)
    return column, tuple(shape)


def _numbers(path: Path, name: str, column: Any) -> np.ndarray[Any, Any]:
    rows = len(column)
    column, shape = _opened_shape(path, name, column)
    require_room(path, f"`{name}`", 8 * len(column))
    return np.asarray(column.to_numpy()).reshape(rows, *shape)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _lengths(column: Any) -> Any:
    from pyarrow import compute

    return compute.list_value_length(column).to_numpy()


def _opened(column: Any) -> Any:
    from pyarrow import compute

    return compute.list_flatten(column)
