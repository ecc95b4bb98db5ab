"""Data in whatever form it comes, as two tensors in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from curvlang.models.refusal import refusal

Pair: TypeAlias = tuple[Tensor, Tensor]
Source: TypeAlias = "Pair | Dataset[Any] | DataLoader[Any]"
"""Inputs and targets as tensors, a map-style or iterable data set, or a loader in fixed order."""


def collect(source: Source, part: str) -> Pair:
    """The whole of a source as inputs [N, …] and targets [N, …].

    Args:
        source: Where the examples come from; it is read once, in its own order.
        part: `train` or `query`, for messages.

    Raises:
        SpecError: E0407 for data of another form or examples of unequal shapes, E0409 for a
            loader that shuffles or drops examples.
    """
    match source:
        case DataLoader():
            _check_loader(source, part)
            X, y = _pairs(source, part)
            return _joined(torch.cat, X, part), _joined(torch.cat, y, part)
        case Dataset():
            examples = source if isinstance(source, IterableDataset) else _items(source)
            X, y = _pairs(examples, part)
            return _joined(torch.stack, X, part), _joined(torch.stack, y, part)
        case (Tensor() as X, Tensor() as y):
            return X.detach(), y.detach()
        case _:
            raise _form(source, part)


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
