"""Examples that are dicts of named fields (`input_ids`, `attention_mask`, `labels`), as tensors [N, …]."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvlang.models.refusal import refusal

LABELS = ("labels", "label")
"""Fields that hold the target where none is named."""
IGNORED = -100
"""The label of a position that takes no part."""


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """All examples, field by field: tensors [N, …] of one N."""

    values: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.values.values()))) if self.values else 0


def fields_of(source: Mapping[str, Any], part: str) -> Fields:
    """A dict of whole columns.

    Raises:
        SpecError: E0557 for a field that is not numbers, is ragged, or has another length.
    """
    values = {str(name): _column(str(name), value, part) for name, value in source.items()}
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"`{name}` {n}" for name, n in lengths.items())
        raise refusal(
            "E0557",
            f"the fields of `{part}` differ in length: {shown}",
            "give every field a row for every example",
        )
    return Fields(values)


def joined_fields(items: Iterable[Mapping[str, Any]], part: str, *, batches: bool) -> Fields:
    """Examples, or batches of them, one behind the other.

    Raises:
        SpecError: E0557 where items have other fields than the first, or other shapes.
    """
    found: dict[str, list[Tensor]] = {}
    for k, item in enumerate(items):
        if k and set(item) != set(found):
            odd = sorted(map(str, set(item) ^ set(found)))
            raise refusal(
                "E0557",
                f"item {k} of `{part}` and the first differ in the field `{odd[0]}`",
                "give every example the same fields",
            )
        for name, value in item.items():
            whole = _column(str(name), value if batches else [value], part)
            found.setdefault(str(name), []).append(whole)
    return Fields({name: _concatenated(name, parts, part) for name, parts in found.items()})


def _concatenated(name: str, parts: Sequence[Tensor], part: str) -> Tensor:
    shapes = {tuple(p.shape[1:]) for p in parts}
    if len(shapes) > 1:
        raise _ragged(name, shapes, part)
    return torch.cat(list(parts))


def _column(name: str, value: Any, part: str) -> Tensor:
    """Numbers [N, …] of a tensor, an array or nested lists."""
    if isinstance(value, Tensor):
        found = value.detach()
    elif isinstance(value, Sequence) and value and all(isinstance(v, Tensor) for v in value):
        shapes = {tuple(v.shape) for v in value}
        if len(shapes) > 1:
            raise _ragged(name, shapes, part)
        found = torch.stack([v.detach() for v in value])
    else:
        found = _numbers(name, value, part)
    if found.ndim == 0:
        raise refusal(
            "E0557", f"field `{name}` of `{part}` is one number", "give one for each example"
        )
    return found


def _numbers(name: str, value: Any, part: str) -> Tensor:
    try:
        array = np.asarray(value)
    except ValueError as error:
        shapes = {np.shape(v) for v in value}
        raise _ragged(name, shapes, part) from error
    if array.dtype.kind not in "iufb":
        what = "texts" if array.dtype.kind in "US" else f"`{array.dtype}`"
        raise refusal(
            "E0557",
            f"field `{name}` of `{part}` holds {what}, not numbers",
            "leave the field out of the examples, or out of `inputs`",
        )
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(array.copy())


def _ragged(name: str, shapes: Iterable[tuple[int, ...]], part: str) -> Exception:
    shown = " and ".join(str(list(s)) for s in sorted(shapes)[:2])
    return refusal(
        "E0557",
        f"field `{name}` of `{part}` has examples of different shapes: {shown}",
        'pad the examples to one length (a tokenizer\'s `padding="max_length"`), labels with -100',
    )


def split_labels(found: Fields, labels: str | None, part: str) -> tuple[dict[str, Tensor], Tensor]:
    """The model's fields and the target.

    Raises:
        SpecError: E0558 where no field, or more than one, can be the target.
    """
    known = ", ".join(f"`{name}`" for name in found.values)
    wanted = [labels] if labels is not None else [x for x in LABELS if x in found.values]
    if len(wanted) > 1:
        raise refusal("E0558", f"`{part}` has both `labels` and `label`", 'say `labels="label"`')
    if not wanted or wanted[0] not in found.values:
        shown = f"no field `{labels}`" if labels is not None else "no field `labels` or `label`"
        raise refusal("E0558", f"`{part}` has {shown}; it has {known}", 'name it: `labels="…"`')
    rest = {name: value for name, value in found.values.items() if name != wanted[0]}
    if not rest:
        raise refusal("E0557", f"`{part}` has no field but the labels", "give the model's inputs")
    return rest, found.values[wanted[0]]


def next_labels(y: Tensor) -> Tensor:
    """Labels of a causal language model: at every position the next one's, -100 at the last."""
    last = torch.full_like(y[:, :1], IGNORED)
    return torch.cat([y[:, 1:], last], 1)
