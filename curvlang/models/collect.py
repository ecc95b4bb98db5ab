"""Data in whatever form it comes, as two tensors in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from curvlang.models.fields import Fields, fields_of, joined_fields
from curvlang.models.refusal import refusal

Pair: TypeAlias = tuple[Tensor, Tensor]
Source: TypeAlias = (
    "Pair | Dataset[Any] | DataLoader[Any] | Mapping[str, Any] | Sequence[Any] | Fields"
)
"""Inputs and targets as tensors, a map-style or iterable data set, a loader in fixed order, a dict of
fields, or a list of examples; an example is a pair or a dict of fields."""


def collect(source: Source, part: str) -> Pair:
    """The whole of a source of pairs as inputs [N, …] and targets [N, …].

    Raises:
        SpecError: As `examples_of`; E0407 for examples that are dicts.
    """
    found = examples_of(source, part)
    if isinstance(found, Fields):
        raise _form(dict(found.values), part)
    return found


def examples_of(source: Source, part: str) -> Pair | Fields:
    """The whole of a source: inputs [N, …] and targets [N, …], or named fields [N, …].

    Args:
        source: Where the examples come from; it is read once, in its own order.
        part: `train` or `query`, for messages.

    Raises:
        SpecError: E0407 for data of another form or examples of unequal shapes, E0409 for a
            loader that shuffles or drops examples, E0557 for fields that are ragged or no numbers.
    """
    match source:
        case DataLoader():
            _check_loader(source, part)
            first, batches = _peeked(source)
            if isinstance(first, Mapping):
                return joined_fields(batches, part, batches=True)
            X, y = _pairs(batches, part)
            return _joined(torch.cat, X, part), _joined(torch.cat, y, part)
        case Dataset():
            return _of_items(
                source if isinstance(source, IterableDataset) else _items(source), part
            )
        case (Tensor() as X, Tensor() as y):
            return X.detach(), y.detach()
        case Fields():
            return source
        case Mapping():
            return fields_of(source, part)
        case list():
            return _of_items(source, part)
        case _ if hasattr(source, "__getitem__") and hasattr(source, "column_names"):
            # A table of rows, as `datasets` has them.
            return _of_items((source[k] for k in range(len(source))), part)
        case _:
            raise _form(source, part)


def _of_items(items: Iterable[Any], part: str) -> Pair | Fields:
    """Examples one by one, each a pair or a dict."""
    first, examples = _peeked(items)
    if isinstance(first, Mapping):
        return joined_fields(examples, part, batches=False)
    X, y = _pairs(examples, part)
    return _joined(torch.stack, X, part), _joined(torch.stack, y, part)


def _peeked(items: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first item, and all of them."""
    rest = iter(items)
    first = next(rest, None)
    return first, () if first is None else chain((first,), rest)


def _items(source: Dataset[Any]) -> Iterable[Any]:
    if not hasattr(source, "__len__"):
        raise refusal("E0407", "a data set without a length", "give it a `__len__`")
    return (source[k] for k in range(len(source)))


def _check_loader(loader: DataLoader[Any], part: str) -> None:
    """A loader's order must be its data set's, and every example must come."""
    if isinstance(loader.dataset, IterableDataset):
        return
    sampler = getattr(loader.batch_sampler, "sampler", None) or loader.sampler
    if type(sampler) is not SequentialSampler:
        raise refusal(
            "E0409",
            f"the `{part}` loader draws its examples with `{type(sampler).__name__}`",
            "make the loader with `shuffle=False`, or pass its `.dataset`",
            notes=("scores are by example, so that the order of the examples must be fixed",),
        )
    size = loader.batch_size or 1
    if loader.drop_last and len(loader.dataset) % size:  # type: ignore[arg-type]
        raise refusal(
            "E0409",
            f"the `{part}` loader drops its last, incomplete batch",
            "make the loader with `drop_last=False`",
        )


def _pairs(examples: Iterable[Any], part: str) -> tuple[list[Tensor], list[Tensor]]:
    X: list[Tensor] = []
    y: list[Tensor] = []
    for item in examples:
        if not isinstance(item, Sequence) or len(item) != 2:
            raise _form(item, part)
        X.append(_tensor(item[0], part))
        y.append(_tensor(item[1], part))
    return X, y


def _tensor(value: Any, part: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, bool | int | float) or hasattr(value, "__array__"):
        return torch.as_tensor(value)
    raise _form(value, part)


def _joined(join: Any, parts: list[Tensor], part: str) -> Tensor:
    if not parts:
        return torch.empty(0)
    ranks = {tuple(p.shape[1:]) if join is torch.cat else tuple(p.shape) for p in parts}
    if len(ranks) > 1:
        shown = " and ".join(str(list(shape)) for shape in sorted(ranks)[:2])
        raise refusal(
            "E0407",
            f"`{part}` has examples of different shapes: {shown}",
            "pad the examples to one shape",
        )
    joined: Tensor = join(parts)
    return joined


def _form(value: Any, part: str) -> Exception:
    return refusal(
        "E0407",
        f"`{part}` gives a `{type(value).__name__}` where inputs and targets are expected",
        "pass a pair of tensors `(X, y)`, or a Dataset or DataLoader whose items are such pairs",
    )
