"""Parquet files: a column at a time, by its declared type; what is not numbers or texts is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from curvlang.models.files.file_columns import (
    Column,
    Table,
    column_of,
    parsing,
    require_room,
    unreadable,
)

_TEXT = 64
"""Bytes that a short text takes as a Python object."""
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
        names, rows = list(file.schema_arrow.names), file.metadata.num_rows
        leaves = [file.metadata.schema.column(k) for k in range(file.metadata.num_columns)]
        tops = [leaf.path.split(".")[0] for leaf in leaves]
    if len(set(names)) < len(names):
        raise unreadable(path, "two of its columns have one name", "give each its own name")
    counts = {name: max(1, tops.count(name)) * rows for name in names}
    return Table(names, lambda name: _column(path, name, counts[name]))


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
        require_room(path, f"`{name}`", column.nbytes + _TEXT * len(column))
        return column.to_pylist()
    return column_of(path, name, _numbers(path, name, column))


def _complete(path: Path, name: str, column: Any) -> None:
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise unreadable(
            path, f"column `{name}` has no value at row {row + 1}", "drop or fill these rows"
        )


def _numbers(path: Path, name: str, column: Any) -> np.ndarray[Any, Any]:
    """Lists are opened level by level: each has one length, which becomes an axis."""
    import pyarrow as pa

    shape, kind = [len(column)], column.type
    while _is_list(kind):
        lengths = np.asarray(_lengths(column))
        if len(lengths) and (lengths != lengths[0]).any():
            raise unreadable(
                path, f"the lists of column `{name}` differ in length", "pad them to one length"
            )
        shape.append(int(lengths[0]) if len(lengths) else 0)
        column, kind = _opened(column), kind.value_type
        if column.null_count:
            raise unreadable(path, f"a list of column `{name}` has no value at a place", "fill it")
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise unreadable(path, f"column `{name}` holds `{kind}`", _NUMBERS)
    require_room(path, f"`{name}`", 8 * len(column))
    return np.asarray(column.to_numpy()).reshape(shape)


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
