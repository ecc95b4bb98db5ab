"""What a loader or a data set gives, in its data set's order and whole, or why it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.loader_rows import checked_rows, differs
from curvlang.models.execution.calls import exhausted, whole_text

RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""Samplers that draw at random, whatever they drew when asked."""
AGAIN = 8
"""First items that are read twice."""

ORDER = "scores are by example, so that the order of the examples must be fixed"


def batches_of(loader: DataLoader[Any], part: str) -> Iterator[Any]:
    """The batches of a loader whose order is its data set's.

    Raises:
        SpecError: E0409 with the reason where it is not, or where items change from reading to
            reading; E0407 for a data set without a length.
    """
    if isinstance(loader.dataset, IterableDataset):
        _check_stream(loader, part)
    else:
        check_order(loader, part)
    found = _twice(lambda: loader, part, -(-AGAIN // (loader.batch_size or AGAIN)))
    if not isinstance(loader.dataset, IterableDataset):
        found = checked_rows(found, loader, part)
    return found if loader.batch_sampler is not None else _whole(found, part)


def items_of(source: Any, part: str) -> Iterator[Any]:
    """The items of a data set in its own order.

    Raises:
        SpecError: E0407 for one without a length, E0409 where items change from reading to reading.
    """
    if isinstance(source, IterableDataset) or not hasattr(source, "__getitem__"):
        return _twice(lambda: source, part, AGAIN)
    _length(source)
    return _twice(lambda: (source[k] for k in range(len(source))), part, AGAIN)


def _length(source: Any) -> int:
    try:
        return len(source)
    except (TypeError, NotImplementedError) as error:
        raise refusal(Code.E0407, "a data set without a length", "give it a `__len__`") from error


def _whole(items: Iterator[Any], part: str) -> Iterator[Any]:
    """Items of a loader without a batch size, which must be batches.

    Raises:
        SpecError: E0409 for single examples: nothing says which axis would be theirs.
    """
    for item in items:
        values = list(item.values()) if isinstance(item, Mapping) else item
        last = values[-1] if isinstance(values, list | tuple) and values else None
        if not isinstance(last, Tensor | np.ndarray) or not last.ndim:
            raise refusal(
                Code.E0409,
                f"the `{part}` loader has `batch_size=None` and gives examples, not batches",
                "pass its `.dataset`, or make the loader with a `batch_size`",
            )
        yield item


def _check_stream(loader: DataLoader[Any], part: str) -> None:
    """A stream is read once and to its end.

    Raises:
        SpecError: E0409.
    """
    if loader.num_workers > 1:
        raise refusal(
            Code.E0409,
            f"the `{part}` loader reads an iterable data set with {loader.num_workers} workers",
            "make the loader with `num_workers=0`",
            notes=(
                "each worker reads the data set by itself: examples come several times, or "
                "in another order",
            ),
        )
    if loader.drop_last:
        raise refusal(
            Code.E0409,
            f"the `{part}` loader drops its last, incomplete batch",
            "make the loader with `drop_last=False`",
        )


def check_order(loader: DataLoader[Any], part: str) -> None:
    """Every example of a loader's data set is drawn once, in the data set's order.

    Raises:
        SpecError: E0409.
    """
    count = _length(loader.dataset)
    sampler: Any = getattr(loader.batch_sampler, "sampler", None) or loader.sampler
    if isinstance(sampler, RANDOM) and count > 1:
        raise _refused(part, f"draws its examples with `{type(sampler).__name__}`")
    drawn = list(islice(_drawn(loader), count + 1))
    if drawn == list(range(count)):
        return
    kind = type(sampler if loader.batch_sampler is None else loader.batch_sampler)
    named = (
        f"`{type(sampler).__name__}`" if kind.__name__ == "BatchSampler" else f"`{kind.__name__}`"
    )
    if loader.drop_last and drawn == list(range(len(drawn))):
        raise refusal(
            Code.E0409,
            f"the `{part}` loader drops its last, incomplete batch",
            "make the loader with `drop_last=False`",
        )
    if drawn != list(islice(_drawn(loader), count + 1)):
        raise _refused(part, f"draws its examples with {named}, in another order every time")
    if len(set(drawn)) < len(drawn):
        raise _refused(part, f"draws examples more than once, with {named}")
    if len(drawn) < count:
        raise _refused(part, f"leaves out {count - len(drawn)} of {count} examples, with {named}")
    shown = ", ".join(map(str, drawn[:4]))
    raise _refused(part, f"draws its examples in the order {shown} …, with {named}")


def _refused(part: str, what: str) -> SpecError:
    return refusal(
        Code.E0409,
        f"the `{part}` loader {what}",
        "make the loader with `shuffle=False`, or pass its `.dataset`; `torch.utils.data.Subset` "
        "chooses examples and orders them",
        notes=(ORDER,),
    )


def _drawn(loader: DataLoader[Any]) -> Iterator[int]:
    """The places of the examples in the data set, one by one, as the loader draws them."""
    chosen: Iterable[Any] = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    for item in chosen:
        whole = item.reshape(-1).tolist() if isinstance(item, Tensor) else item
        yield from map(_place, whole if isinstance(whole, Iterable) else (whole,))


def _place(item: Any) -> int:
    """A number; -1 for any other key, which is not a place in an order."""
    try:
        return int(item)
    except (TypeError, ValueError):
        return -1


def _twice(read: Callable[[], Iterable[Any]], part: str, count: int) -> Iterator[Any]:
    """All items; the first ones must be the same when they are read again afterwards.

    Raises:
        SpecError: E0409; E0407 for what the data raises.
    """
    first: list[Any] = []
    for item in _told(read, part):
        if len(first) < count:
            first.append(item)
        yield item
    # A stream that can be read once gives nothing now, and has nothing to differ.
    for k, (item, again) in enumerate(zip(first, islice(_told(read, part), count), strict=False)):
        if not same_items(item, again):
            raise differs(k, part)


def _told(read: Callable[[], Iterable[Any]], part: str) -> Iterator[Any]:
    """All items; what the data set raises is told with the item that was read.

    Raises:
        SpecError: E0407.
    """
    done = 0
    try:
        for item in read():
            yield item
            done += 1
    except Exception as error:
        if isinstance(error, CurvlangError) or exhausted(error):
            raise
        raise refusal(
            Code.E0407,
            f"the data of `{part}` raises `{type(error).__name__}` where item {done} is read",
            "make a loop over the data run by itself: the text above is the data set's own",
            notes=(_reason(error),),
        ) from error


def _reason(error: Exception) -> str:
    """What an exception says; of one in a worker process, what was raised there."""
    text = whole_text(error)
    return text.splitlines()[-1] if "Original Traceback" in text else text


def same_items(x: Any, y: Any) -> bool:
    """Whether two items hold the same numbers; what cannot be compared is the same."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        alike = x.shape == y.shape and x.dtype == y.dtype
        if not alike or x.layout is not torch.strided:
            return alike
        return bool(((x == y) | ((x != x) & (y != y))).all())
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        if x.dtype.kind == "f":
            return np.array_equal(x, y, equal_nan=True)
        return np.array_equal(x, y)
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        return set(x) == set(y) and all(same_items(v, y[k]) for k, v in x.items())
    if isinstance(x, list | tuple) and isinstance(y, list | tuple):
        return len(x) == len(y) and all(map(same_items, x, y))
    if dataclasses.is_dataclass(x) and type(x) is type(y):
        return same_items(vars(x), vars(y)) if hasattr(x, "__dict__") else True
    if isinstance(x, bool | int | float | str):
        return bool(x == y or (x != x and y != y))
    return True
