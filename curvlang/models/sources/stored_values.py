"""Which values that a task is given stay where they are: stored rows, large memory maps, columns of tables."""

from __future__ import annotations

import torch

from curvlang.models.data.derived_rows import cast, fits
from curvlang.models.data.rows import Rows, StoredRows
from curvlang.models.padding.ragged_rows import RaggedRows
from curvlang.models.sources.file_rows import FileRows
from curvlang.models.sources.npy_files import map_array
from curvlang.models.sources.table_columns import column_rows


def stored(value: object, dtype: torch.dtype | None = None) -> Rows | RaggedRows | None:
    """The rows of a value that is not in memory; None for one that is.

    Few rows are read at once, since reading them again takes longer than it saves.

    Args:
        value: Of any type.
        dtype: Precision of floating-point numbers; theirs where not given.

    Raises:
        UnfitError: For a column with missing values.
    """
    if isinstance(value, StoredRows):
        return kept_or_read(value, dtype)
    if isinstance(value, RaggedRows):
        return value
    column = column_rows(value)
    if column is not None:
        return column if isinstance(column, RaggedRows) else _in(column, dtype)
    array = map_array(value)
    if array is None or fits(array.shape, array.dtype):
        return None
    return kept_or_read(FileRows(array), dtype)


def kept_or_read(rows: StoredRows, dtype: torch.dtype | None = None) -> Rows:
    """The rows in a precision: as they are where they are many, else in memory."""
    found = _in(rows, dtype)
    return found[:] if fits(found.shape, found.dtype) else found


def _in(rows: Rows, dtype: torch.dtype | None) -> Rows:
    return rows if dtype is None else cast(rows, dtype)
