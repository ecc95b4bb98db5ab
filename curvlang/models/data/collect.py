"""Data in whatever form it comes, as two tensors or as fields, in a fixed order."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.arrays import RaggedError, UnfitError, is_array, is_table, numbers
from curvlang.models.data.fields import LABELS, Fields, fields_of, joined_fields
from curvlang.models.data.loaders import batches_of, items_of
from curvlang.models.data.rows import Pair, Rows
from curvlang.models.padding.ragged_rows import RaggedRows
from curvlang.models.sources.stored_values import stored
from curvlang.models.sources.table_columns import is_column, table_columns

Source: TypeAlias = (
    "Pair | Dataset[Any] | DataLoader[Any] | Mapping[str, Any] | Sequence[Any] | Fields"
)
"""Inputs and targets as tensors or arrays, a map-style or iterable data set, a loader in fixed order, a
dict of fields, a table, or a list of examples; an example is a pair or a dict of fields."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """How examples are read.

    Args:
        part: `train` or `query`, for messages.
        dtype: Precision of floating-point numbers that do not come in tensors.
        wanted: The fields that are needed; None for all.
    """

    part: str
    dtype: torch.dtype | None
    wanted: Collection[str] | None


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
    how = _Reading(part, dtype, wanted)
    given: Any = source
    match given:
        case DataLoader():
            return _of_batches(batches_of(given, part), how)
        case Fields():
            return given
        case Mapping():
            return _of_mapping(given, how)
        case _ if (columns := _columns(given, how)) is not None:
            return fields_of(columns, part)
        case _ if is_table(given):
            return fields_of({c: given[c] for c in given.columns}, part, wanted)
        case (X, y) if isinstance(X, Mapping) and _is_whole(y):
            return fields_of(_with_labels(X, y, part), part, wanted)
        case (X, y) if _is_pair(given, X, y):
            return _all_numbers(X, how, "inputs"), _all_numbers(y, how, "targets")
        case str() | bytes() | set() | frozenset():
            raise _form(given, part)
        case Dataset() | Sequence():
            return _of_items(items_of(given, part) if isinstance(given, Dataset) else given, how)
        case _ if hasattr(given, "column_names") or hasattr(given, "__len__"):
            # A table of rows, as `datasets` has them, or a data set of no known class.
            if is_array(given) or not (hasattr(given, "__getitem__") or hasattr(given, "__iter__")):
                raise _form(given, part)
            return _of_items(items_of(given, part), how)
        case _ if hasattr(given, "__next__"):
            return _of_items(given, how)
        case _:
            raise _form(given, part)


def _columns(given: object, how: _Reading) -> Mapping[str, Any] | None:
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


def _of_mapping(source: Mapping[str, Any], how: _Reading) -> Fields:
    """A dict of columns; not one of data sets."""
    splits = [k for k, v in source.items() if hasattr(v, "column_names") or isinstance(v, Dataset)]
    if splits:
        raise refusal(
            Code.E0407,
            f"`{how.part}` is a dict of data sets: " + ", ".join(f"`{k}`" for k in splits),
            f"pass one of them: `data[{splits[0]!r}]`",
        )
    return fields_of(source, how.part, how.wanted)


def _with_labels(X: Mapping[str, Any], y: Any, part: str) -> dict[str, Any]:
    """A dict of inputs and its target as one dict."""
    if set(LABELS) & set(X):
        raise refusal(
            Code.E0558, f"`{part}` has labels in its dict and beside it", "give them once"
        )
    return {**X, LABELS[0]: y}


def _of_batches(batches: Iterable[Any], how: _Reading) -> Pair | Fields:
    """What a loader gives: batches of pairs, of fields, or lists of examples."""
    first, rest = _peeked(map(_named, batches))
    if _is_list_of_examples(first):
        return _of_items((example for batch in rest for example in batch), how)
    return _gathered(first, rest, how, batches=True)


def _is_list_of_examples(batch: object) -> bool:
    """Whether a batch is a plain list of its examples, as `collate_fn=list` leaves it."""
    return (
        isinstance(batch, list)
        and bool(batch)
        and all(isinstance(_named(x), Mapping | tuple) for x in batch)
        and not all(isinstance(x, tuple) and len(x) != 2 for x in batch)
    )


def _of_items(items: Iterable[Any], how: _Reading) -> Pair | Fields:
    """Examples one by one, each a pair or a dict."""
    first, examples = _peeked(map(_named, items))
    return _gathered(first, examples, how, batches=False)


def _gathered(first: Any, items: Iterable[Any], how: _Reading, *, batches: bool) -> Pair | Fields:
    """Batches, or examples, of one form: that of the first."""
    if isinstance(first, Mapping):
        return joined_fields(items, how.part, batches=batches, wanted=how.wanted)
    if _has_dict(first):
        found = (_with_labels(item[0], item[1], how.part) for item in items)
        return joined_fields(found, how.part, batches=batches, wanted=how.wanted)
    X, y = _pairs(items, how)
    join = torch.cat if batches else torch.stack
    return _joined(join, X, how.part), _joined(join, y, how.part)


def _has_dict(item: object) -> bool:
    """Whether an item is a dict of inputs and a target."""
    return isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], Mapping)


def _named(item: Any) -> Any:
    """An example of named parts as a dict: a dataclass, or a named tuple with labels."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        named = len(item) != 2 or set(LABELS) & set(item._fields)
        return dict(zip(item._fields, item, strict=True)) if named else tuple(item)
    return item


def _peeked(items: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    """The first item, and all of them."""
    rest = iter(items)
    for first in rest:
        return first, chain((first,), rest)
    return None, rest


def _pairs(examples: Iterable[Any], how: _Reading) -> tuple[list[Tensor], list[Tensor]]:
    X: list[Tensor] = []
    y: list[Tensor] = []
    for item in examples:
        if not isinstance(item, list | tuple):
            raise _form(item, how.part)
        if len(item) != 2:
            raise refusal(
                Code.E0407,
                f"`{how.part}` gives items of {len(item)} parts where inputs and targets are expected",
                "give pairs, or dicts whose names the model's `forward` takes",
            )
        X.append(_numbers(item[0], how, "inputs"))
        y.append(_numbers(item[1], how, "targets"))
    return X, y


def _all_numbers(value: Any, how: _Reading, what: str) -> Rows:
    """Numbers of all examples, in memory or where they are stored."""
    try:
        kept = stored(value, how.dtype)
    except UnfitError as error:
        raise _unfit(error, how, what) from error
    if isinstance(kept, RaggedRows):
        shapes = [(int(n),) for n in (kept.lengths.min(), kept.lengths.max())]
        raise _unfit(RaggedError(shapes), how, what)
    return _numbers(value, how, what) if kept is None else kept


def _numbers(value: Any, how: _Reading, what: str) -> Tensor:
    """Numbers of an example, of a batch, or of all examples."""
    if value is None or isinstance(value, str | bytes | Mapping):
        raise _form(value, how.part)
    try:
        return numbers(value, how.dtype)
    except UnfitError as error:
        raise _unfit(error, how, what) from error


def _unfit(error: UnfitError, how: _Reading, what: str) -> SpecError:
    return refusal(Code.E0407, f"`{how.part}`: {what} {_plural(error.what)}", error.repair)


def _plural(predicate: str) -> str:
    """`is sparse` as `are sparse`: inputs are many."""
    verbs = {"is": "are", "has": "have", "holds": "hold"}
    verb, _, rest = predicate.partition(" ")
    return f"{verbs.get(verb, verb)} {rest}"


def _joined(join: Any, parts: list[Tensor], part: str) -> Tensor:
    if not parts:
        return torch.empty(0)
    if join is torch.cat and any(p.ndim == 0 for p in parts):
        raise refusal(
            Code.E0407,
            f"`{part}` gives batches with one number where a row for every example is expected",
            "give batches of inputs and targets, with the examples on the first axis",
        )
    ranks = {tuple(p.shape[1:]) if join is torch.cat else tuple(p.shape) for p in parts}
    if len(ranks) > 1:
        shown = " and ".join(str(list(shape)) for shape in sorted(ranks)[:2])
        raise refusal(
            Code.E0407,
            f"`{part}` has examples of different shapes: {shown}",
            "pad the examples to one shape",
        )
    joined: Tensor = join(parts)
    return joined


def _form(value: Any, part: str) -> SpecError:
    return refusal(
        Code.E0407,
        f"`{part}` gives a `{type(value).__name__}` where inputs and targets are expected",
        "pass a pair of tensors `(X, y)`, or a Dataset or DataLoader whose items are such pairs",
    )
