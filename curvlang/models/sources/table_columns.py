"""Columns of a `datasets` table, which Arrow keeps in files: rows become tensors when they are asked for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from curvlang.models.data.arrays import RaggedError
from curvlang.models.data.derived_rows import fits
from curvlang.models.data.rows import Places, Rows, StoredRows, numbers_of
from curvlang.models.padding.ragged_rows import RaggedColumn, RaggedRows
from curvlang.models.sources.arrow_columns import (
    ArrowValues,
    arrow_shapes,
    arrow_values,
    is_numeric,
)

ROWS = 4096
"""Rows of which the lengths are looked at together."""
ARRAYS = ("numpy", "torch", "tensorflow", "jax")
"""Formats in which a table gives floating-point numbers in float32, whatever it holds."""
FORMATS = (None, "arrow", "pandas", "polars", *ARRAYS)
"""Formats that change no number otherwise; of others a function makes the rows."""


class TableColumn:
    """A column of numbers, or of lists of numbers.

    Args:
        table: A `datasets.Dataset`.
        name: Of the column.
    """

    def __init__(self, table: Any, name: str) -> None:
        self._single = table.format["type"] in ARRAYS
        self._table = table.with_format("arrow", columns=[name])

    def __len__(self) -> int:
        return len(self._table)

    def read(self, places: Places) -> ArrowValues:
        """Some rows of it."""
        found = arrow_values(self._arrow(places))
        if self._single and found.values.is_floating_point():
            return ArrowValues(found.lengths, found.values.to(torch.float32))
        return found

    def lengths(self) -> Tensor | None:
        """Entries of every row; None where a row is one number.

        Raises:
            UnfitError: For missing values.
            RaggedError: For lists in lists that differ in length.
        """
        found, shapes = [], set()
        for start in range(0, max(1, len(self)), ROWS):
            own, shape = arrow_shapes(self._arrow(range(start, min(len(self), start + ROWS))))
            found.append(own)
            shapes.add(shape)
        if len(shapes) > 1:
            raise RaggedError(list(shapes))
        lists = [own for own in found if own is not None]
        return torch.cat(lists) if lists else None

    def _arrow(self, places: Places) -> Any:
        if isinstance(places, range) and places.step == 1:
            return self._table[places.start : places.stop].column(0)
        return self._table[numbers_of(places).tolist()].column(0)


class TableRows(StoredRows):
    """A column whose rows have one shape.

    Args:
        column: Of a table.
    """

    def __init__(self, column: TableColumn) -> None:
        first = column.read(range(min(1, len(column)))).level()
        super().__init__((len(column), *first.shape[1:]), first.dtype)
        self.column = column

    def read(self, places: Places) -> Tensor:
        """Rows of the column."""
        return self.column.read(places).level().reshape(len(places), *self.shape[1:])


class TableRaggedRows(RaggedRows):
    """A column whose rows have different lengths.

    Args:
        column: Of a table.
        lengths: Entries of every row.
    """

    def __init__(self, column: TableColumn, lengths: Tensor) -> None:
        self.column = column
        self._lengths = lengths

    @property
    def lengths(self) -> Tensor:
        """T_n of every row, [N]."""
        return self._lengths

    def padded(self, width: int, fill: int) -> Rows:
        """[N, width, …], filled behind every row when it is read."""
        return PaddedRows(self, width, fill)


class PaddedRows(StoredRows):
    """Rows of different lengths, padded where they are read.

    Args:
        source: The rows.
        width: Of padded rows.
        fill: What padding consists of.
    """

    def __init__(self, source: TableRaggedRows, width: int, fill: int) -> None:
        self.source = source
        self.fill = fill
        first = source.column.read(range(min(1, len(source)))).values
        super().__init__((len(source), width, *first.shape[1:]), first.dtype, source.lengths)

    def read(self, places: Places) -> Tensor:
        """Padded rows."""
        return self.source.column.read(places).padded(self.shape[1], self.fill)


def table_columns(
    table: object, wanted: Collection[str] | None
) -> dict[str, Rows | RaggedRows] | None:
    """The columns of a table of the library `datasets`; None for all else, and for tables of other rows.

    Tables with a wanted column of texts or images, or with a function that makes the rows, are read row by
    row elsewhere.

    Args:
        table: Of any type.
        wanted: Names of the columns that are needed; None for all that the table shows.
    """
    given: Any = table
    if not _is_table(given):
        return None
    shown = given.format["columns"]
    names = [name for name in shown if wanted is None or name in wanted]
    schema = given.data.schema
    if not names or not all(is_numeric(schema.field(name).type) for name in names):
        return None
    return {name: _rows(TableColumn(given, name)) for name in names}


def is_column(value: object) -> bool:
    """Whether a value is what `table["name"]` gives."""
    return _of_library(value) and isinstance(getattr(value, "column_name", None), str)


def column_rows(value: object) -> Rows | RaggedRows | None:
    """What `table["name"]` gives, as rows; None for all else, and for columns of other than numbers."""
    if not is_column(value):
        return None
    given: Any = value
    return (table_columns(given.source, [given.column_name]) or {}).get(given.column_name)


def _of_library(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "datasets"


def _is_table(given: Any) -> bool:
    """Whether a value is a table whose rows are its columns' numbers."""
    if (
        not _of_library(given)
        or not hasattr(given, "with_format")
        or not hasattr(given, "num_rows")
    ):
        return False
    how, names = given.format, given.column_names
    if not isinstance(names, list) or how["type"] not in FORMATS or how["format_kwargs"]:
        return False
    return not how["output_all_columns"] or len(how["columns"]) == len(names)


def _rows(column: TableColumn) -> Rows | RaggedRows:
    """Rows of one length or of several, in memory where they are few.

    Raises:
        UnfitError: For missing values, and lists in lists that differ in length.
    """
    lengths = column.lengths()
    if lengths is None or len(lengths.unique()) <= 1:
        rows = TableRows(column)
        return rows[:] if fits(rows.shape, rows.dtype) else rows
    first = column.read(range(1)).values
    if not fits((int(lengths.sum()), *first.shape[1:]), first.dtype):
        return TableRaggedRows(column, lengths)
    whole = column.read(range(len(column)))
    return RaggedColumn(whole.values.split(lengths.tolist()))
