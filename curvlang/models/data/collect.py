"""Data in whatever form it comes, as two tensors or as fields, in a fixed order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader, Dataset

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.arrays import RaggedError, UnfitError, is_array, is_table
from curvlang.models.data.fields import LABELS, Fields, fields_of
from curvlang.models.data.loaders import batches_of, items_of
from curvlang.models.data.rows import Pair, Rows
from curvlang.models.padding.ragged_rows import RaggedRows
from curvlang.models.sources.gathering import (
    Reading,
    numbers_of_part,
    of_batches,
    of_items,
    other_form,
    unfit,
    with_labels,
)
from curvlang.models.sources.on_demand import on_demand
from curvlang.models.sources.stored_values import stored
from curvlang.models.sources.table_columns import is_column, table_columns

Source: TypeAlias = (
    "Pair | Dataset[Any] | DataLoader[Any] | Mapping[str, Any] | Sequence[Any] | Fields"
)
"""Inputs and targets as tensors or arrays, a map-style or iterable data set, a loader in fixed order, a
dict of fields, a table, or a list of examples; an example is a pair or a dict of fields."""


def examples_of(
    source: Source,
    part: str,
    dtype: torch.dtype | None = None,
    wanted: Collection[str] | None = None,
) -> Pair | Fields:
    """The whole of a source: inputs [N, …] and targets [N, …], or named fields [N, …].

    Args:
        source: Where the examples come from; it is read once, in its own order.
        part: `train` or `query`, for messages.
        dtype: Precision of floating-point numbers that do not come in tensors; theirs where None.
        wanted: Of named fields those that are needed, whatever the others hold; None for all.

    Raises:
        SpecError: E0407 for data of another form or examples of unequal shapes, E0409 for a
            loader that shuffles or drops examples, E0557 for fields that are ragged or no numbers.
    """
    how = Reading(part, dtype, wanted)
    given: Any = source
    match given:
        case DataLoader():
            return on_demand(given, how) or of_batches(batches_of(given, part), how)
        case Fields():
            return given
        case Mapping():
            return _of_mapping(given, how)
        case _ if (columns := _columns(given, how)) is not None:
            return fields_of(columns, part)
        case _ if is_table(given):
            return fields_of({c: given[c] for c in given.columns}, part, wanted)
        case (X, y) if isinstance(X, Mapping) and _is_whole(y):
            return fields_of(with_labels(X, y, part), part, wanted)
        case (X, y) if _is_pair(given, X, y):
            return _all_numbers(X, how, "inputs"), _all_numbers(y, how, "targets")
        case str() | bytes() | set() | frozenset():
            raise other_form(given, part)
        case Dataset():
            return on_demand(given, how) or of_items(items_of(given, part), how)
        case Sequence():
            return of_items(given, how)
        case _ if hasattr(given, "column_names") or hasattr(given, "__len__"):
            # A table of rows, as `datasets` has them, or a data set of no known class.
            if is_array(given) or not (hasattr(given, "__getitem__") or hasattr(given, "__iter__")):
                raise other_form(given, part)
            return on_demand(given, how) or of_items(items_of(given, part), how)
        case _ if hasattr(given, "__next__"):
            return of_items(given, how)
        case _:
            raise other_form(given, part)


def _columns(given: object, how: Reading) -> Mapping[str, Any] | None:
    """The columns of a table of the library `datasets`; None for all else."""
    try:
        return table_columns(given, how.wanted)
    except UnfitError:
        # Which column it is, and what is wrong with it, is said where rows are read one by one.
        return None


def _is_whole(value: object) -> bool:
    """Whether a value can be the numbers of all examples."""
    told = isinstance(value, list) or is_table(value) or is_column(value)
    return told or (is_array(value) and _ndim(value) > 0)


def _ndim(value: Any) -> int:
    return int(getattr(value, "ndim", 1))


def _is_pair(source: object, X: object, y: object) -> bool:
    """Whether two things are inputs and targets, not two examples: in a list only arrays are."""
    if isinstance(X, Mapping):
        return False
    if (
        isinstance(source, tuple)
        and hasattr(source, "_fields")
        and set(LABELS) & set(source._fields)
    ):
        return False
    both = all(is_array(part) or is_table(part) or is_column(part) for part in (X, y))
    return both or (isinstance(source, tuple) and _is_whole(X) and _is_whole(y))


def _of_mapping(source: Mapping[str, Any], how: Reading) -> Fields:
    """A dict of columns; not one of data sets."""
    splits = [k for k, v in source.items() if hasattr(v, "column_names") or isinstance(v, Dataset)]
    if splits:
        raise refusal(
            Code.E0407,
            f"`{how.part}` is a dict of data sets: " + ", ".join(f"`{k}`" for k in splits),
            f"pass one of them: `data[{splits[0]!r}]`",
        )
    return fields_of(source, how.part, how.wanted)


def _all_numbers(value: Any, how: Reading, what: str) -> Rows:
    """Numbers of all examples, in memory or where they are stored."""
    try:
        kept = stored(value, how.dtype)
    except UnfitError as error:
        raise unfit(error, how, what) from error
    if isinstance(kept, RaggedRows):
        shapes = [(int(n),) for n in (kept.lengths.min(), kept.lengths.max())]
        raise unfit(RaggedError(shapes), how, what)
    return numbers_of_part(value, how, what) if kept is None else kept
