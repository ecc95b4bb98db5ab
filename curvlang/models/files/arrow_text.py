"""Columns of a table in text by pyarrow, where it is installed: the same numbers and texts, many times faster.

Only plain tables are read so: without quotes and zero bytes, every row with all fields. A cell that pyarrow and
Python read differently is left to Python, block by block, so that what is found does not depend on pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curvlang.models.execution.calls import exhausted

_PIECE = 2**24
"""Bytes of text that are read at once."""
_SMALLEST = -(2**63)
"""Beyond what a column of integers holds, as Python's reading of the table has it."""


def arrow_blocks(path: Path, delimiter: str, names: Sequence[str]) -> Iterator[list[Any]] | None:
    """The columns of some rows at a time, as arrays of texts; None where pyarrow is not for this table.

    Args:
        path: The file.
        delimiter: Between fields.
        names: Of the columns, without spaces around them.
    """
    try:
        from pyarrow import csv
    except ImportError:
        return None
    raw = _plain_header(path, delimiter)
    if raw is None or [name.strip() for name in raw] != list(names):
        return None
    import pyarrow as pa

    def read() -> Iterator[list[Any]]:
        with csv.open_csv(
            path,
            csv.ReadOptions(use_threads=False, block_size=_PIECE),
            csv.ParseOptions(delimiter=delimiter, quote_char=False, double_quote=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(raw, pa.string()), strings_can_be_null=False
            ),
        ) as reader:
            for batch in reader:
                if batch.num_rows:
                    yield list(batch.columns)

    return read()


def _plain_header(path: Path, delimiter: str) -> list[str] | None:
    """The names in the first line; None where a quote or a zero byte is anywhere in the file."""
    with path.open("rb") as file:
        first = file.readline(_PIECE)
        piece = first
        while piece:
            if b'"' in piece or b"\0" in piece:
                return None
            piece = file.read(_PIECE)
    try:
        # A lone carriage return ends a line too.
        lines = first.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return None
    return lines[0].split(delimiter) if len(lines) == 1 and lines[0] else None


def integers_of(cells: Any) -> np.ndarray[Any, Any] | None:
    """Texts as integers; None where pyarrow does not read them all, or reads what Python does not."""
    import pyarrow.compute as pc

    found = _cast(cells, "int64")
    # pyarrow reads `0x10` as sixteen; in a table it is a name.
    if found is None or pc.any(pc.match_substring(cells, "x", ignore_case=True)).as_py():
        return None
    return None if len(found) and int(found.min()) == _SMALLEST else found


def numbers_of(cells: Any) -> np.ndarray[Any, Any] | None:
    """Texts as numbers; None where pyarrow does not read them all, or one is not finite."""
    found = _cast(cells, "float64")
    return found if found is not None and bool(np.isfinite(found).all()) else None


def _cast(cells: Any, kind: str) -> np.ndarray[Any, Any] | None:
    import pyarrow as pa

    try:
        return np.asarray(cells.cast(kind).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid as error:
        if exhausted(error):
            raise
        return None
