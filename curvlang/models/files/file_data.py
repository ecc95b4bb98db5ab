"""Data from a file: which columns are inputs, which the target, which examples the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import Generator, Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.suggestion import suggestion
from curvlang.language.registry import NONE
from curvlang.models.data.data import Data, check_share
from curvlang.models.data.derived_rows import cast, fits, joined_columns, mapped, selected_pair
from curvlang.models.data.fields import IGNORED
from curvlang.models.data.rows import Pair, Rows, largest, odd_entries, pieces
from curvlang.models.files.file_columns import Column, Table
from curvlang.models.files.files import TABLES, read_table
from curvlang.models.losses.finite import FINITE, not_finite

ALL = ("all",)
CLASSES = 2**24
"""More outputs than any classifier has; a number beyond names something else than a class."""
PARTS = {"train": "train", "query": "query", "test": "query"}
"""Words of a `split` column, and the part that each means."""


UNNAMED = "y"
"""The target where none is named."""


@dataclass(frozen=True, slots=True)
class FileColumns:
    """What is read of a file.

    Args:
        path: npz, csv, tsv, parquet or safetensors.
        inputs: Columns that the model reads, joined along the features; `all` for every column
            but target and split.
        target: Columns of the target.
        query: A second file with the same columns for the queries.
        split: A column of the words `train` and `query` (or `test`).
        test: Share of the rows that become queries, where neither of the two is given.
        seed: Of that choice.
        scale: `standard` for inputs of zero mean and unit variance over the training part.
    """

    path: str
    inputs: Sequence[str]
    target: Sequence[str]
    query: str
    split: str
    test: float
    seed: int
    scale: str


def file_data(chosen: FileColumns, loss: str, folder: Path) -> Data:
    """Training examples and queries from columns of a file.

    Under `cross_entropy` the target is one column of class numbers, or of texts, which become the
    numbers of their alphabetical order; under every other loss it is one or more columns of numbers.

    Args:
        chosen: The file, its columns, and how its rows are split.
        loss: The task's loss, by name.
        folder: Where relative paths start.

    Returns:
        Inputs and numeric targets float32; a single integer array of an npz or safetensors file
        stays integers (numbers of tokens); classes int64.

    Raises:
        SpecError: E0552 for a file that cannot be read, E0553 for columns that are not there or
            of another kind than requested, E0554 for NaN or infinite numbers, E0412 for the share.
    """
    if chosen.query != NONE and chosen.split != NONE:
        raise refusal(Code.E0553, "`query` and `split` both say what the queries are", "give one")
    main = folder / chosen.path
    table = read_table(main)
    where = _FileRequest(main, tuple(chosen.target), None if chosen.split == NONE else chosen.split)
    X, y = where.read(table, chosen.inputs)
    if chosen.query == NONE:
        (y,) = _targets([(where, y)], loss)
        rows, held = _split(where, table, len(X), chosen.test, chosen.seed)
        train, query = (selected_pair((X, y), places) for places in (rows, held))
        return _data(train, query, loss, chosen.scale)
    other = _FileRequest(folder / chosen.query, tuple(chosen.target), None)
    Xq, yq = other.read(read_table(other.path), chosen.inputs)
    if X.shape[1:] != Xq.shape[1:]:
        raise refusal(
            Code.E0553,
            f"`{chosen.path}` has examples of shape {list(X.shape[1:])} and `{chosen.query}` of "
            f"{list(Xq.shape[1:])}",
            "give both files the same columns",
        )
    y, yq = _targets([(where, y), (other, yq)], loss)
    return _data((X, y), (Xq, yq), loss, chosen.scale)


def _targets(parts: Sequence[tuple[_FileRequest, Column]], loss: str) -> list[Rows]:
    """Targets in the loss's form: numbers, or classes numbered alike in all files."""
    if loss != "cross_entropy":
        return [where.numbers(y) for where, y in parts]
    texts = [y for _, y in parts if isinstance(y, list)]
    if 0 < len(texts) < len(parts):
        parts[0][0].refuse("classes are texts in one file, numbers in the other", "use one kind")
    names = sorted({x for column in texts for x in column})
    return [where.classes(y, names) for where, y in parts]


class _FileRequest:
    """A file with the columns requested of it, for reading and for messages."""

    def __init__(self, path: Path, target: tuple[str, ...], split: str | None) -> None:
        self.path = path
        self.target = target
        self.split = split

    def read(self, table: Table, inputs: Sequence[str]) -> tuple[Rows, Column]:
        """Inputs [N, …] and the target, not yet told apart into classes and numbers."""
        names, targets = tuple(inputs), [self.column(table, n) for n in self.target]
        if names == ALL and ALL[0] not in table:
            names = tuple(n for n in table if n not in (*self.target, self.split))
        both = [n for n in names if n in self.target]
        if both:
            self.refuse(f"`{both[0]}` is an input and the target", "take it out of `inputs`")
        if not names:
            self.refuse("no column is left for the inputs", "write `inputs = […]`")
        columns = [self.column(table, n) for n in names]
        X = self._joined(names, columns, numbers=self.path.suffix.lower() in TABLES)
        y = targets[0] if len(targets) == 1 else self._joined(self.target, targets, numbers=True)
        if len(y) != len(X):
            self.refuse(
                f"`{names[0]}` has {len(X)} rows and `{self.target[0]}` {len(y)}",
                "give every example a target",
            )
        return X, y

    def column(self, table: Table, name: str) -> Column:
        """A column by name, of at least one axis."""
        if name not in table:
            known = suggestion(name, table)
            what = f"`{self.path.name}` has no column `{name}`"
            if name == UNNAMED:
                # The name is the default: say how others are written.
                write = f'`file("{self.path.name}", inputs = [COLUMN, …], target = COLUMN)`'
                raise refusal(Code.E0553, what, f"name the columns that are meant: {write}", *known)
            raise refusal(Code.E0553, what, *known)
        found = table[name]
        if not isinstance(found, list) and found.ndim == 0:
            self.refuse(f"`{name}` is one number, not one for each example", "leave it out")
        if not isinstance(found, list) and len(found) and not found.shape.numel():
            self.refuse(
                f"`{name}` has no number for an example: {list(found.shape)}", "leave it out"
            )
        return found

    def _joined(self, names: Sequence[str], columns: Sequence[Column], *, numbers: bool) -> Rows:
        """One tensor: the column itself where it is alone, else side by side."""
        found = [self._numeric(n, c) for n, c in zip(names, columns, strict=True)]
        lengths = {len(c) for c in found}
        if len(lengths) > 1:
            shown = ", ".join(f"`{n}` {len(c)}" for n, c in zip(names, found, strict=True))
            self.refuse(f"columns differ in length: {shown}", "name the columns in `inputs`")
        if len(found) == 1 and found[0].ndim > 1 and not numbers:
            return found[0]
        deep = next((n for n, c in zip(names, found, strict=True) if c.ndim > 2), None)
        if deep is not None and len(found) > 1:
            self.refuse(f"`{deep}` has more than two axes", "join such arrays before, into one")
        width = sum(c.shape[1:].numel() if c.ndim < 3 else c.shape[1] for c in found)
        shape = (width, *found[0].shape[2:])
        joined = joined_columns(found, _side_by_side, shape, torch.float32)
        return joined[:] if fits(joined.shape, joined.dtype) else joined

    def _numeric(self, name: str, column: Column) -> Rows:
        if isinstance(column, list):
            bad = next((k for k, cell in enumerate(column) if not _is_number(cell)), 0)
            shown = _shown(column[bad]) if column and column[bad] else "nothing"
            self.refuse(
                f"column `{name}` has {shown} at row {bad + 1}, which is not a number",
                "leave the column out of `inputs`, or write numbers",
            )
        if column.is_floating_point():
            self._finite(name, column)
            return self._single(name, column)
        return column

    def _single(self, name: str, column: Rows) -> Rows:
        """In float32, which reaches to 3.4e38."""
        found = cast(column, torch.float32)
        if odd_entries(found, FINITE, not_finite) is not None:
            largest = max(float(x.double().abs().max()) for _, x in pieces(column))
            self.refuse(
                f"`{name}` has numbers as large as {largest:g}, which float32 cannot hold",
                "write them in another unit",
            )
        return found

    def _finite(self, name: str, column: Rows) -> None:
        odd = odd_entries(column, FINITE, not_finite)
        if odd is not None:
            raise refusal(
                Code.E0554,
                f"column `{name}` of `{self.path.name}` has {odd.count} values that are NaN "
                f"or infinite (the first at row {odd.row + 1})",
                "drop or fill these rows",
            )

    def classes(self, y: Column, names: Sequence[str]) -> Rows:
        """Class numbers int64, of texts in the order of `names`."""
        shown = self.target[0]
        if isinstance(y, list):
            return torch.tensor([names.index(x) for x in y], dtype=torch.int64)
        if y.is_floating_point():
            self._finite(shown, y)
            odd = odd_entries(y, "whole numbers", lambda x: x != x.round())
            if odd is not None:
                first = float(y[odd.row : odd.row + 1].reshape(-1)[0])
                self.refuse(
                    f"`{shown}` has {first:g} at row {odd.row + 1}, which is not a class number",
                    "give class numbers, or write `loss mse` for a regression",
                )
        self._classes_in_range(y)
        return mapped(y, lambda x: x.to(torch.int64), y.shape[1:], torch.int64)

    def _classes_in_range(self, y: Rows) -> None:
        """Not below 0 (but what a loss over positions leaves out), not beyond any model's outputs."""
        odd = odd_entries(y, "classes in range", _outside_of_range)
        if odd is not None:
            self.refuse(
                f"`{self.target[0]}` has the class {float(odd.value):.0f} at row {odd.row + 1}",
                f"number the classes 0, 1, 2, … (below {CLASSES}), or write them as texts",
            )

    def numbers(self, y: Column) -> Rows:
        """Targets [N, k], float32."""
        if not isinstance(y, list) and y.ndim > 1:
            return _in_single(self._numeric(self.target[0], y))
        return self._joined(self.target, [y], numbers=True)

    def refuse(self, what: str, repair: str) -> NoReturn:
        """E0553 about this file."""
        raise refusal(Code.E0553, f"`{self.path.name}`: {what}", repair)


def _in_single(rows: Rows) -> Rows:
    return mapped(rows, lambda x: x.to(torch.float32), rows.shape[1:], torch.float32)


def _side_by_side(*columns: Tensor) -> Tensor:
    flat = [c.unsqueeze(1) if c.ndim == 1 else c for c in columns]
    return torch.cat([c.to(torch.float32) for c in flat], 1)


def _outside_of_range(y: Tensor) -> Tensor:
    """Where numbers are not classes; a position of a row may be left out."""
    whole = y.double() if y.is_floating_point() else y
    below = (whole < 0) & (whole != IGNORED) if y.ndim > 1 else whole < 0
    return below | (whole >= CLASSES)


def _data(train: Pair, query: Pair, loss: str, scale: str) -> Data:
    """Inputs scaled; outputs are the classes, or the numbers of a target."""
    (X, y), (Xq, yq) = train, query
    if scale == "standard":
        X, Xq = _standard(X, Xq)
    if loss != "cross_entropy":
        return Data((X, y), (Xq, yq), y.shape[-1], X.shape[-1], "regression")
    count = 1 + max(map(largest, (y, yq)))
    return Data((X, y), (Xq, yq), count, X.shape[-1], "classification")


def _standard(X: Rows, Xq: Rows) -> tuple[Rows, Rows]:
    if not X.is_floating_point():
        raise refusal(Code.E0553, "`scale = standard` of integers", "leave `scale` out")
    mean, spread = _mean_and_spread(X)
    spread[spread == 0] = 1

    def scaled(x: Tensor) -> Tensor:
        return ((x - mean) / spread).to(x.dtype)

    first, second = (mapped(rows, scaled, rows.shape[1:], rows.dtype) for rows in (X, Xq))
    return first, second


def _mean_and_spread(X: Rows) -> tuple[Tensor, Tensor]:
    """Of every feature over all rows, float64."""
    if isinstance(X, Tensor):
        return X.double().mean(0), X.double().std(0, unbiased=False)
    zero = torch.zeros(X.shape[1:], dtype=torch.float64)
    mean = sum((x.double().sum(0) for _, x in pieces(X)), zero) / len(X)
    squares = sum(((x.double() - mean).square().sum(0) for _, x in pieces(X)), zero)
    return mean, (squares / len(X)).sqrt()


def _split(
    where: _FileRequest, table: Table, count: int, test: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Rows of the training part and of the queries, each in the file's order."""
    if where.split is None:
        check_share(test, count)
        order = torch.randperm(count, generator=Generator().manual_seed(seed))
        cut = count - round(test * count)
        return order[:cut].sort().values, order[cut:].sort().values
    words = where.column(table, where.split)
    if len(words) != count:
        where.refuse(f"`{where.split}` has {len(words)} rows of {count}", "give one word a row")
    cells = words if isinstance(words, list) else words[:].tolist()
    named = [x if isinstance(x, str) else f"{float(x):g}" for x in cells]
    bad = next((k for k, x in enumerate(named) if x not in PARTS), None)
    if bad is not None:
        where.refuse(
            f"`{where.split}` has `{named[bad]}` at row {bad + 1}",
            "write `train` or `query` in every row",
        )
    chosen = [PARTS[x] for x in named]
    for part in ("train", "query"):
        if part not in chosen:
            where.refuse(f"`{where.split}` names no row `{part}`", "name some")
    is_train = torch.tensor([x == "train" for x in chosen])
    return is_train.nonzero()[:, 0], (~is_train).nonzero()[:, 0]


def _shown(cell: str) -> str:
    """A text of the file on one line, not too long of it."""
    plain = " ".join(cell.split())
    return f"`{plain if len(plain) <= 60 else plain[:60] + '…'}`"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
