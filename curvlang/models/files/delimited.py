"""Tables in text, csv and tsv: read row by row, and kept in a file of numbers where they are large."""

from __future__ import annotations

import codecs
import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from curvlang.models.data.derived_rows import fits
from curvlang.models.files.arrow_text import arrow_blocks, integers_of, numbers_of
from curvlang.models.files.file_columns import (
    LARGEST,
    Column,
    Table,
    parsing,
    require_room,
    unreadable,
)
from curvlang.models.sources.file_rows import FileArray, FileRows
from curvlang.storage.scratch import scratch_file

ROWS = 4096
"""Rows that are read together."""
_PER_BYTE = 8
"""Bytes of memory for a byte of a table in text, at least: its fields are objects of their own."""
_PIECE = 2**20

Cells: TypeAlias = "list[list[str]]"
"""Some rows of fields."""
Fields: TypeAlias = Any
"""Fields of one column: a list of texts, or an array of them."""
KINDS = (torch.int64, torch.float64)
"""Of numbers, the narrower one first."""


@dataclass(frozen=True, slots=True)
class DelimitedText:
    """A table in text, of which a few rows are in memory at a time.

    Args:
        path: The file.
        delimiter: Between fields.
    """

    path: Path
    delimiter: str

    def table(self) -> Table:
        """Its columns under the names of the first row.

        Raises:
            SpecError: E0552 for what is not such a table.
        """
        with parsing(self.path):
            size = self.path.stat().st_size
        if fits((size,), torch.uint8):
            require_room(self.path, "it", _PER_BYTE * size)
            names, blocks = self._opened()
            rows = [row for block in blocks for row in block]
            place = {name: k for k, name in enumerate(names)}
            return Table(names, lambda name: numbers([row[place[name]] for row in rows]))
        return _Large.of(self).table()

    def names(self) -> list[str]:
        """Of the columns."""
        return self._opened()[0]

    def blocks(self) -> Iterator[Cells]:
        """The rows behind the first one, some at a time, each with a field for every column."""
        return self._opened()[1]

    def columns(self) -> Iterator[Sequence[Fields]]:
        """The same by columns."""
        return (list(zip(*block, strict=True)) for block in self.blocks())

    def _opened(self) -> tuple[list[str], Iterator[Cells]]:
        rows = self._rows()
        first = next(rows, None)
        if first is None:
            raise unreadable(
                self.path, "it is empty", "write a first row of column names, then the rows"
            )
        names = [name.strip() for name in first[1]]
        if len(set(names)) < len(names) or not all(names):
            raise unreadable(
                self.path,
                "its first row does not name every column once",
                "give each column a name",
            )
        return names, self._checked(rows, len(names))

    def _checked(self, rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[Cells]:
        while block := list(islice(rows, ROWS)):
            for line, row in block:
                if len(row) != width:
                    raise unreadable(
                        self.path,
                        f"line {line} has {len(row)} fields, the first row names {width}",
                        "give every row a value for every column",
                    )
            yield [row for _, row in block]

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Rows that are not empty, each with the number of the line it ends on."""
        with parsing(self.path):
            file = self.path.open(encoding="utf-8-sig", newline="")
        with file:
            rows = csv.reader(self._lines(file), delimiter=self.delimiter, strict=True)
            try:
                yield from ((rows.line_num, row) for row in rows if row)
            except csv.Error as error:
                raise unreadable(self.path, f"line {rows.line_num}: {error}") from error

    def _lines(self, file: Any) -> Iterator[str]:
        try:
            for line in file:
                if "\0" in line:
                    why = "it is not text (it has zero bytes)"
                    raise unreadable(self.path, why, "write it as UTF-8")
                yield line
        except UnicodeDecodeError as error:
            place = _first_bad_byte(self.path)
            raise unreadable(
                self.path, f"it is not text (byte {place} is not UTF-8)", "write it as UTF-8"
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class _Large:
    """A table that does not stay in memory: its numbers are written once, column behind column.

    Args:
        source: The text.
        kinds: Of every column: of its numbers, or None where some field is none.
        rows: How many.
        by_arrow: Whether pyarrow reads the table.
    """

    source: DelimitedText
    kinds: dict[str, torch.dtype | None]
    rows: int
    by_arrow: bool = False

    @staticmethod
    def of(source: DelimitedText) -> _Large:
        """The kinds of all columns, of one reading."""
        names = source.names()
        fast = arrow_blocks(source.path, source.delimiter, names)
        if fast is not None:
            try:
                return _Large._read(source, names, fast, by_arrow=True)
            except ValueError:
                pass  # Python's reader says what is wrong with the table, or reads it.
        return _Large._read(source, names, source.columns(), by_arrow=False)

    @staticmethod
    def _read(
        source: DelimitedText, names: list[str], blocks: Iterator[Sequence[Fields]], by_arrow: bool
    ) -> _Large:
        found, rows = dict.fromkeys(names, 0), 0
        for block in blocks:
            rows += len(block[0])
            for name, cells in zip(found, block, strict=True):
                if found[name] < len(KINDS):
                    found[name] = max(found[name], _kind(cells, found[name]))
        kinds = (*KINDS, None)
        return _Large(source, {name: kinds[k] for name, k in found.items()}, rows, by_arrow)

    def _blocks(self) -> Iterator[Sequence[Fields]]:
        """Fields of all columns, some rows at a time."""
        source = self.source
        fast = (
            arrow_blocks(source.path, source.delimiter, list(self.kinds)) if self.by_arrow else None
        )
        yield from source.columns() if fast is None else fast

    def table(self) -> Table:
        """The columns: numbers in a file of their own, texts in memory."""
        written: list[Path] = []

        def read(name: str) -> Column:
            if self.kinds[name] is None:
                return self._texts(name)
            if not written:
                written.append(self._written())
            return self._column(written[0], name)

        return Table(list(self.kinds), read)

    @property
    def _numeric(self) -> list[str]:
        return [name for name, kind in self.kinds.items() if kind is not None]

    def _written(self) -> Path:
        """All numbers, of every column in one piece."""
        places = [(k, n) for k, n in enumerate(self.kinds) if self.kinds[n] is not None]
        with scratch_file(".columns") as (path, file), parsing(self.source.path):
            done = 0
            for block in self._blocks():
                for column, (k, name) in enumerate(places):
                    file.seek(8 * (column * self.rows + done))
                    file.write(_values(block[k], self.kinds[name] is torch.int64).tobytes())
                done += len(block[0])
        return path

    def _column(self, path: Path, name: str) -> Column:
        kind = self.kinds[name]
        assert kind is not None
        offset = 8 * self.rows * self._numeric.index(name)
        return FileRows(FileArray(path, offset, (self.rows,), (8,), kind))

    def _texts(self, name: str) -> list[str]:
        """Names of classes and of parts come again and again: each is held once."""
        place = list(self.kinds).index(name)
        require_room(self.source.path, f"`{name}`", 8 * self.rows)
        known: dict[str, str] = {}
        with parsing(self.source.path):
            return [
                known.setdefault(cell, cell)
                for block in self._blocks()
                for cell in map(str.strip, _texts(block[place]))
            ]


def numbers(cells: list[str]) -> Column:
    """Integers where all cells are, numbers where all are, else the texts."""
    width = _width(cells)
    if width == len(KINDS):
        return [cell.strip() for cell in cells]
    kind: Callable[[str], Any] = (int, float)[width]
    return torch.tensor([kind(cell) for cell in cells], dtype=KINDS[width])


def _texts(cells: Fields) -> Sequence[str]:
    return cells if isinstance(cells, tuple) else cells.to_pylist()


def _kind(cells: Fields, least: int) -> int:
    """`_width` of a column's fields, from the kind on that those before them have."""
    if not isinstance(cells, tuple) and (integers_of, numbers_of)[least](cells) is not None:
        return least
    return _width(_texts(cells))


def _values(cells: Fields, integers: bool) -> np.ndarray[Any, Any]:
    """Fields of a column of numbers."""
    if not isinstance(cells, tuple):
        found = integers_of(cells) if integers else numbers_of(cells)
        if found is not None:
            return found
    return np.array(
        list(map(int if integers else float, _texts(cells))), np.int64 if integers else np.float64
    )


def _width(cells: Sequence[str]) -> int:
    """The place in `KINDS` of the narrowest kind that holds all cells; behind them where none does."""
    # Python reads `1_0` as ten; in a table it is a name.
    if "_" in "".join(cells):
        return len(KINDS)
    try:
        if max(map(abs, map(int, cells)), default=0) <= LARGEST:
            return 0
    except ValueError:
        pass
    try:
        deque(map(float, cells), maxlen=0)
    except ValueError:
        return len(KINDS)
    return 1


def _first_bad_byte(path: Path) -> int:
    """Where a file stops being UTF-8."""
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                return done - waiting + error.start
            done += len(piece)
    return done
