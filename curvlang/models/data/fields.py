"""Examples that are dicts of named fields (`input_ids`, `attention_mask`, `labels`), as tensors [N, …]."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.arrays import RaggedError, UnfitError, numbers
from curvlang.models.data.derived_rows import mapped
from curvlang.models.data.rows import Rows
from curvlang.models.padding.ragged_rows import (
    Columns,
    RaggedColumn,
    RaggedRows,
    ragged_column,
)
from curvlang.models.sources.stored_values import stored

LABELS = ("labels", "label")
"""Fields that hold the target where none is named."""
IGNORED = -100
"""The label of a position that takes no part."""


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """All examples, field by field: rows [N, …] of one N, or of different lengths.

    Args:
        values: The fields that were read.
        unread: Names of others, which were not asked for.
    """

    values: Columns
    unread: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.values.values()))) if self.values else 0

    @property
    def ragged(self) -> bool:
        """Whether rows are of different lengths."""
        return any(isinstance(value, RaggedRows) for value in self.values.values())


def fields_of(
    source: Mapping[str, Any], part: str, wanted: Collection[str] | None = None
) -> Fields:
    """A dict of whole columns, or of those that are wanted.

    Raises:
        SpecError: E0557 for a field that is not numbers, is ragged, or has another length.
    """
    chosen, unread = _wanted(source, wanted)
    values = {str(name): _column(str(name), source[name], part) for name in chosen}
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"`{name}` {n}" for name, n in lengths.items())
        raise refusal(
            Code.E0557,
            f"the fields of `{part}` differ in length: {shown}",
            "give every field a row for every example",
        )
    return Fields(values, unread)


def _wanted(
    source: Mapping[str, Any], wanted: Collection[str] | None
) -> tuple[list[Any], tuple[str, ...]]:
    """The names to read, and the others."""
    chosen = [name for name in source if wanted is None or str(name) in wanted]
    return chosen, tuple(str(name) for name in source if name not in chosen)


def joined_fields(
    items: Iterable[Mapping[str, Any]],
    part: str,
    *,
    batches: bool,
    wanted: Collection[str] | None = None,
) -> Fields:
    """Examples, or batches of them, one behind the other.

    Raises:
        SpecError: E0557 where items have other fields than the first, or other shapes.
    """
    found: dict[str, list[Tensor | RaggedColumn]] = {}
    unread: tuple[str, ...] = ()
    for k, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise refusal(
                Code.E0557,
                f"item {k} of `{part}` is a `{type(item).__name__}`, and the first is a dict",
                "give every example the same form",
            )
        chosen, others = _wanted(item, wanted)
        unread = unread or others
        if k and set(map(str, chosen)) != set(found):
            raise other_fields(k, sorted(set(map(str, chosen)) ^ set(found))[0], part)
        for name in chosen:
            whole = _held_column(str(name), item[name] if batches else [item[name]], part)
            found.setdefault(str(name), []).append(whole)
    values = {name: _concatenated(name, parts, part) for name, parts in found.items()}
    return Fields(values, unread)


def other_fields(item: int, field: str, part: str) -> SpecError:
    """E0557: an item that lacks a field, or has another one."""
    return refusal(
        Code.E0557,
        f"item {item} of `{part}` and the first differ in the field `{field}`",
        "give every example the same fields",
    )


def _concatenated(
    name: str, parts: Sequence[Tensor | RaggedColumn], part: str
) -> Tensor | RaggedColumn:
    whole = [p for p in parts if isinstance(p, Tensor)]
    shapes = {tuple(p.shape[1:]) for p in whole}
    if len(shapes) == 1 and len(whole) == len(parts):
        return torch.cat(whole)
    rows = [row for p in parts for row in (p if isinstance(p, Tensor) else p.rows)]
    column = ragged_column(rows)
    if column is None:
        raise ragged_field(name, {tuple(row.shape) for row in rows}, part)
    return column


def _column(name: str, value: Any, part: str) -> Rows | RaggedRows:
    """Numbers [N, …] of a tensor, an array or nested lists; rows of different lengths as they are."""
    try:
        kept = stored(value)
    except UnfitError as error:
        raise _unfit(name, error, part) from error
    return _held_column(name, value, part) if kept is None else kept


def _held_column(name: str, value: Any, part: str) -> Tensor | RaggedColumn:
    try:
        found = numbers(value)
    except RaggedError as error:
        column = _rows(name, value, part)
        if column is None:
            raise ragged_field(name, error.shapes, part) from error
        return column
    except UnfitError as error:
        raise _unfit(name, error, part) from error
    if found.ndim == 0:
        raise refusal(
            Code.E0557, f"field `{name}` of `{part}` is one number", "give one for each example"
        )
    return found


def _unfit(name: str, error: UnfitError, part: str) -> SpecError:
    if isinstance(error, RaggedError):
        return ragged_field(name, error.shapes, part)
    return refusal(
        Code.E0557,
        f"field `{name}` of `{part}` {error.what}",
        "leave the field out of the examples, or name the others: `inputs=[…]`"
        if "texts" in error.what
        else error.repair,
    )


def _rows(name: str, value: Any, part: str) -> RaggedColumn | None:
    """Rows that are numbers of different lengths; None for rows that are ragged themselves.

    Raises:
        SpecError: E0557 naming the first row that is not numbers.
    """
    rows = []
    for n, row in enumerate(value):
        try:
            rows.append(numbers(row))
        except RaggedError:
            return None
        except UnfitError as error:
            what = f"row {n} of the field `{name}` of `{part}` {error.what}"
            raise refusal(Code.E0557, what, error.repair) from error
    return ragged_column([row.to(torch.int64) if not row.numel() else row for row in rows])


def ragged_field(name: str, shapes: Collection[tuple[int, ...]], part: str) -> SpecError:
    """E0557: examples that differ in more than their length."""
    shown = " and ".join(str(list(s)) for s in sorted(set(shapes))[:2])
    return refusal(
        Code.E0557,
        f"field `{name}` of `{part}` has examples of different shapes: {shown}",
        "give all examples one shape, or one that differs in the first axis alone",
    )


def split_labels(found: Fields, labels: str | None, part: str) -> tuple[dict[str, Rows], Rows]:
    """The model's fields and the target.

    Raises:
        SpecError: E0558 where no field, or more than one, can be the target.
    """
    known = ", ".join(f"`{name}`" for name in (*found.values, *found.unread)) or "no field"
    wanted = [labels] if labels is not None else [x for x in LABELS if x in found.values]
    if len(wanted) > 1:
        raise refusal(Code.E0558, f"`{part}` has both `labels` and `label`", 'say `labels="label"`')
    if not wanted or wanted[0] not in found.values:
        shown = f"no field `{labels}`" if labels is not None else "no field `labels` or `label`"
        raise refusal(Code.E0558, f"`{part}` has {shown}; it has {known}", 'name it: `labels="…"`')
    assert not found.ragged, "rows of different lengths are padded before"
    plain = {name: x for name, x in found.values.items() if not isinstance(x, RaggedRows)}
    rest = {name: value for name, value in plain.items() if name != wanted[0]}
    if not rest and not found.unread:
        raise refusal(
            Code.E0557, f"`{part}` has no field but the labels", "give the model's inputs"
        )
    return rest, plain[wanted[0]]


def next_labels(y: Rows) -> Rows:
    """Labels of a causal language model: at every position the next one's, -100 at the last."""
    return mapped(y, _moved, y.shape[1:], y.dtype)


def _moved(y: Tensor) -> Tensor:
    last = torch.full_like(y[:, :1], IGNORED)
    return torch.cat([y[:, 1:], last], 1)
