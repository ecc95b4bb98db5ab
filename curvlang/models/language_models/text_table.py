"""Data sets of texts: files, folders of `save_to_disk` and names of a hub, read by `datasets`, column by column."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.suggestion import suggestion
from curvlang.models.execution.calls import exhausted
from curvlang.models.language_models.checkpoint import place_of
from curvlang.models.language_models.libraries import first_line, library, quiet_tables

READERS = {
    ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
"""Kinds of files, and the reader of `datasets` for each."""
AT_ONCE = 1000
"""Entries that are read, and given to a tokenizer, together."""
SUFFIXES = ", ".join(f"`{x}`" for x in READERS)


@dataclass(frozen=True, slots=True, eq=False)
class TextTable:
    """Rows of named columns.

    Args:
        name: What messages call it.
        table: Of `datasets`.
        places: Which rows of a whole data set these are; None for all of it.
    """

    name: str
    table: Any
    places: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def columns(self) -> list[str]:
        """Names."""
        return list(map(str, self.table.column_names))

    def column(self, name: str) -> list[Any]:
        """All entries of a column.

        Raises:
            SpecError: E0896 for a column that is not there.
        """
        self._check(name)
        return list(self.table.with_format(None)[name])

    def _check(self, name: str) -> None:
        if name not in self.columns:
            raise refusal(
                Code.E0896,
                f"`{self.name}` has no column `{name}`",
                *suggestion(name, tuple(self.columns)),
                notes=(f"it has {', '.join(f'`{x}`' for x in self.columns)}",),
            )

    def texts(self, name: str) -> list[str]:
        """All entries of a column of texts.

        Raises:
            SpecError: E0896 for a column that is not there or holds something else.
        """
        return [text for block in self.text_blocks(name) for text in block]

    def text_blocks(self, name: str) -> Iterator[list[str]]:
        """The same, `AT_ONCE` entries at a time."""
        for start, found in self._blocks(name):
            bad = next((k for k, x in enumerate(found) if not isinstance(x, str)), None)
            if bad is not None:
                raise refusal(
                    Code.E0896,
                    f"column `{name}` of `{self.name}` has {_kind(found[bad])} at row "
                    f"{self.number(start + bad)}, which is not a text",
                    _repair(found[bad]),
                )
            yield found

    def lists(self, name: str, kind: type = int) -> list[list[Any]]:
        """All entries of a column of lists of tokens, or of words where the kind is `str`.

        Raises:
            SpecError: E0896 for a column that holds something else.
        """
        return [row for block in self.list_blocks(name, kind) for row in block]

    def list_blocks(self, name: str, kind: type = int) -> Iterator[list[list[Any]]]:
        """The same, `AT_ONCE` entries at a time."""
        what = "tokens" if kind is int else "words"
        for start, found in self._blocks(name):
            for k, x in enumerate(found):
                if not isinstance(x, list) or not all(isinstance(entry, kind) for entry in x):
                    raise refusal(
                        Code.E0896,
                        f"column `{name}` of `{self.name}` has {_kind(x)} at row {self.number(start + k)}, "
                        f"where a list of {what} is expected",
                        "write lists of whole numbers, without `set_format`"
                        if kind is int
                        else "write lists of texts, one for every word",
                    )
            yield found

    def _blocks(self, name: str) -> Iterator[tuple[int, list[Any]]]:
        """Entries of a column, some at a time, with the place of the first of them."""
        self._check(name)
        own = self.table.select_columns([name]).with_format(None)
        for start in range(0, len(own), AT_ONCE):
            yield start, list(own[start : start + AT_ONCE][name])

    def classes(self, name: str, known: Sequence[str]) -> list[Any]:
        """All entries of a column of classes; by their names where the table names the model's own.

        Args:
            name: The column.
            known: The names of the model's classes.
        """
        return list(self.each_class(name, known))

    def each_class(self, name: str, known: Sequence[str]) -> Iterator[Any]:
        """The same, one after the other."""
        found = (x for _, block in self._blocks(name) for x in block)
        own = getattr(self.table, "features", {}).get(name)
        own = getattr(own, "feature", own)
        names = getattr(own, "names", None)
        if not names or not set(names) <= set(known):
            return found

        def named(x: Any) -> Any:
            if isinstance(x, list):
                return [named(entry) for entry in x]
            return names[x] if isinstance(x, int) and 0 <= x < len(names) else x

        return map(named, found)

    def each(self, name: str) -> Iterator[Any]:
        """The entries of a column, one after the other.

        Raises:
            SpecError: E0896 for a column that is not there.
        """
        self._check(name)
        own = self.table.select_columns([name]).with_format(None)
        return (row[name] for row in own)

    def number(self, row: int) -> int:
        """The number of a row in the whole data set, counted from 1."""
        return 1 + (row if self.places is None else self.places[row])

    def rows(self, places: list[int]) -> TextTable:
        """Some of the rows, in this order."""
        return TextTable(self.name, self.table.select(places), places)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a `{type(value).__name__}`"


def _repair(value: Any) -> str:
    if isinstance(value, list | dict):
        return "give a column of texts; conversations are named apart: `messages = …`"
    return "drop these rows" if value is None else "name the column of the texts: `text = …`"


def text_table(given: Any, folder: Path, part: str, split: str | None = None) -> TextTable:
    """A data set.

    Args:
        given: A file, a folder of `save_to_disk`, or a name of a hub; a table of `datasets`, or a list of texts or
            rows.
        folder: Where relative paths start.
        part: What rows in memory are called.
        split: Of a data set of a hub.

    Raises:
        SpecError: E0890 without `datasets`, E0895 for what cannot be read or has no rows.
    """
    datasets = library("datasets", "data sets of texts are read")
    path = isinstance(given, str | os.PathLike)
    place = place_of(str(given), folder) if path else part
    try:
        with quiet_tables():
            table = _opened(datasets, place, split) if path else _in_memory(datasets, given)
    except SpecError:
        raise
    except Exception as error:
        if exhausted(error):
            raise
        if _EMPTY in _reason(error):
            raise _empty(place) from error
        repair = (
            _REPAIR if path else "give every row the same columns, each with values of one kind"
        )
        raise _unreadable(place, _reason(error), repair) from error
    if not len(table):
        raise _empty(place)
    return TextTable(place, table)


_EMPTY = "corresponds to no data"
"""What `datasets` says of a file that has columns and no rows."""


def _empty(place: str) -> SpecError:
    return _unreadable(place, "it has no rows", "give one with examples")


def _in_memory(datasets: Any, given: Any) -> Any:
    """A table of rows that Python has."""
    if isinstance(given, datasets.DatasetDict):
        splits = ", ".join(f"`{x}`" for x in given)
        raise ValueError(f"it holds several data sets: {splits}")
    if hasattr(given, "column_names"):
        return given
    rows = [{"text": x} if isinstance(x, str) else x for x in given]
    odd = next((x for x in rows if not isinstance(x, Mapping)), None)
    if odd is not None:
        raise TypeError(f'{_kind(odd)} is not a row such as {{"text": "…", "label": 0}}')
    return datasets.Dataset.from_list(rows)


_REPAIR = f"give a file ({SUFFIXES}), or a folder that `save_to_disk` has written"


def _opened(datasets: Any, place: str, split: str | None) -> Any:
    at = Path(place)
    if at.is_dir():
        return _of_folder(datasets, at)
    if not at.exists():
        if at.suffix:
            raise _unreadable(place, "there is no such file", "give the path of a file that exists")
        return datasets.load_dataset(place, split=split or "train")
    reader = READERS.get(at.suffix.lower())
    if reader is None:
        raise _unreadable(place, f"files called `*{at.suffix}` are not read", _REPAIR)
    options = {"sep": "\t"} if at.suffix.lower() == ".tsv" else {}
    return datasets.load_dataset(reader, data_files=str(at), split="train", **options)


def _of_folder(datasets: Any, at: Path) -> Any:
    found = datasets.load_from_disk(str(at))
    if isinstance(found, datasets.DatasetDict):
        splits = list(map(str, found))
        shown = ", ".join(f"`{x}`" for x in splits)
        raise _unreadable(
            str(at),
            f"it holds several data sets: {shown}",
            f"give one of them, `{at / splits[0]}`, and another one as `query`",
        )
    return found


def _reason(error: BaseException) -> str:
    """The cause that `datasets` wraps in an error of its own."""
    cause = error.__cause__
    return first_line(error if cause is None else cause)


def _unreadable(place: str, why: str, repair: str) -> SpecError:
    return refusal(Code.E0895, f"no data set in `{place}`: {why}", repair)
