"""Examples one by one, or batches of them, gathered into inputs and targets or into fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.arrays import UnfitError, numbers
from curvlang.models.data.fields import LABELS, Fields, joined_fields
from curvlang.models.data.rows import Examples


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """The way in which examples are read.

    Args:
        part: `train` or `query`, for messages.
        dtype: Precision of floating-point numbers that do not come in tensors.
        wanted: The fields that are needed; None for all.
    """

    part: str
    dtype: torch.dtype | None
    wanted: Collection[str] | None


def of_batches(batches: Iterable[Any], how: Reading) -> Examples | Fields:
    """What a loader gives: batches of pairs, of fields, or lists of examples."""
    first, rest = _peeked(map(_named, batches))
    if _is_list_of_examples(first):
        return of_items((example for batch in rest for example in batch), how)
    return _gathered(first, rest, how, batches=True)


def _is_list_of_examples(batch: object) -> bool:
    """Whether a batch is a plain list of its examples, as `collate_fn=list` leaves it."""
    return (
        isinstance(batch, list)
        and bool(batch)
        and all(isinstance(_named(x), Mapping | tuple) for x in batch)
        and not all(isinstance(x, tuple) and len(x) != 2 for x in batch)
    )


def of_items(items: Iterable[Any], how: Reading) -> Examples | Fields:
    """Examples one by one, each a pair or a dict."""
    first, examples = _peeked(map(_named, items))
    return _gathered(first, examples, how, batches=False)


def _gathered(
    first: Any, items: Iterable[Any], how: Reading, *, batches: bool
) -> Examples | Fields:
    """Batches, or examples, of one form: that of the first."""
    if isinstance(first, Mapping):
        return joined_fields(items, how.part, batches=batches, wanted=how.wanted)
    if _has_dict(first):
        found = (with_labels(item[0], item[1], how.part) for item in items)
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


def _pairs(examples: Iterable[Any], how: Reading) -> tuple[list[Tensor], list[Tensor]]:
    X: list[Tensor] = []
    y: list[Tensor] = []
    for item in examples:
        if not isinstance(item, list | tuple):
            raise other_form(item, how.part)
        if len(item) != 2:
            raise refusal(
                Code.E0407,
                f"`{how.part}` gives items of {len(item)} parts where inputs and targets are expected",
                "give pairs, or dicts whose names the model's `forward` takes",
            )
        X.append(numbers_of_part(item[0], how, "inputs"))
        y.append(numbers_of_part(item[1], how, "targets"))
    return X, y


def with_labels(X: Mapping[str, Any], y: Any, part: str) -> dict[str, Any]:
    """A dict of inputs and its target as one dict."""
    if set(LABELS) & set(X):
        raise refusal(
            Code.E0558, f"`{part}` has labels in its dict and beside it", "give them once"
        )
    return {**X, LABELS[0]: y}


def numbers_of_part(value: Any, how: Reading, what: str) -> Tensor:
    """Numbers of an example, of a batch, or of all examples."""
    if value is None or isinstance(value, str | bytes | Mapping):
        raise other_form(value, how.part)
    try:
        return numbers(value, how.dtype)
    except UnfitError as error:
        raise unfit(error, how, what) from error


def unfit(error: UnfitError, how: Reading, what: str) -> SpecError:
    """E0407 about inputs or targets that are not numbers of one shape."""
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


def other_form(value: Any, part: str) -> SpecError:
    """E0407 about what is neither a pair nor a source of pairs."""
    return refusal(
        Code.E0407,
        f"`{part}` gives a `{type(value).__name__}` where inputs and targets are expected",
        "pass a pair of tensors `(X, y)`, or a Dataset or DataLoader whose items are such pairs",
    )
