"""Whether the rows of a loader's batches are the examples of its data set, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal

PLACES = 8
"""Examples, spread over the data set, whose rows are compared with the examples themselves."""

CLOSE = 1e-4
"""Difference of a number that is computed for one example and for many: rounding of products."""


def checked_rows(batches: Iterator[Any], loader: DataLoader[Any], part: str) -> Iterator[Any]:
    """The batches; each has a row for every example drawn, and some rows are compared.

    A function that collates, or a loader's own `__iter__`, may sort, drop, repeat or mix what the
    sampler drew.

    Args:
        batches: What the loader gives.
        loader: Of a data set with a length, which the sampler goes through in order.
        part: `train` or `query`, for messages.

    Raises:
        SpecError: E0409 with the first row that is not its example's.
    """
    count = len(loader.dataset)  # type: ignore[arg-type]
    places = set(torch.linspace(0, count - 1, PLACES).round().long().tolist())
    done = 0
    for batch in batches:
        rows = _rows(batch)
        if rows is None:
            # Batches of another form are refused where they are read.
            yield from (batch, *batches)
            return
        for place in sorted(places & set(range(done, min(count, done + rows)))):
            _check_row(batch, place - done, place, loader, part)
        done += rows
        yield batch
    if done != count:
        raise _refused(part, f"gives {done} rows for the {count} examples of its data set", loader)


def _check_row(batch: Any, row: int, place: int, loader: DataLoader[Any], part: str) -> None:
    """A row of a batch is what the loader makes of its example alone.

    Raises:
        SpecError: E0409.
    """
    if loader.batch_size is None:
        return
    first, other = loader.dataset[place], loader.dataset[0 if place else 1]
    alone, again = (_made(loader, [item]) for item in (first, loader.dataset[place]))
    if alone is None or again is None:
        # A function that needs several examples: nothing to compare with.
        return
    if not alike(alone, 0, again, 0):
        raise differs(place, part)
    there, back = _made(loader, [first, other]), _made(loader, [other, first])
    # Rows of a batch that is padded have another shape alone, and the same one in both pairs.
    kept = there is None or back is None or alike(there, 0, back, 1)
    if not kept or not alike(batch, row, alone, 0):
        raise _refused(part, f"gives for example {place} a row that is not its own", loader)


def _made(loader: DataLoader[Any], items: list[Any]) -> Any:
    """The batch of some items; None where the loader's function makes none of them."""
    try:
        batch = loader.collate_fn(items)
    except Exception:
        # A batch of its own choice was collated well: what fails here says nothing about it.
        return None
    return batch if _rows(batch) == len(items) else None


def differs(place: int, part: str) -> SpecError:
    """An item that is another one when it is read again."""
    return refusal(
        Code.E0409,
        f"item {place} of `{part}` differs when it is read again",
        "take random transforms (crops, flips, noise) and shuffling out of the data set, or "
        "read it once and pass tensors",
        notes=("the score of an example is of the numbers that the example has",),
    )


def alike(batch: Any, row: int, other: Any, place: int) -> bool:
    """Whether two rows hold the same numbers; of rows of different shapes (padding), nothing is said."""
    x, y = _row(batch, row), _row(other, place)
    if len(x) != len(y):
        return True
    return all(_equal(u, v) for u, v in zip(x, y, strict=True))


def _equal(x: Any, y: Any) -> bool:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return True
    if x.shape != y.shape or x.layout is not torch.strided or y.layout is not torch.strided:
        return True
    return bool(torch.isclose(x.double(), y.double(), rtol=CLOSE, atol=CLOSE, equal_nan=True).all())


def _leaves(batch: Any) -> list[Any]:
    """What a batch consists of: inputs and targets, or fields."""
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in _leaves(value)]
    if isinstance(batch, tuple) or (isinstance(batch, list) and _of_arrays(batch)):
        return [leaf for value in batch for leaf in _leaves(value)]
    return [batch]


def _of_arrays(batch: list[Any]) -> bool:
    """Whether a list is a pair of inputs and targets, as torch's own collation gives it."""
    kinds = [isinstance(v, Tensor | np.ndarray) for v in batch]
    # Two dicts are two examples; a target is an array.
    whole = all(kind or isinstance(v, Mapping) for kind, v in zip(kinds, batch, strict=True))
    return len(batch) == 2 and any(kinds) and whole


def _rows(batch: Any) -> int | None:
    """The examples of a batch; None where its parts disagree, or have no first axis."""
    counts = {_count(leaf) for leaf in _leaves(batch)}
    return counts.pop() if len(counts) == 1 else None


def _count(leaf: Any) -> int | None:
    if isinstance(leaf, Tensor | np.ndarray):
        return len(leaf) if leaf.ndim else None
    return len(leaf) if isinstance(leaf, list) else None


def _row(batch: Any, row: int) -> list[Any]:
    """One example of a batch, part by part, as tensors where they are numbers."""
    found: list[Any] = []
    for leaf in _leaves(batch):
        value = leaf[row]
        for part in _leaves(value) if isinstance(leaf, list) else [value]:
            found.append(_tensor(part))
    return found


def _tensor(value: Any) -> Any:
    numeric = isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf"
    if numeric or isinstance(value, bool | int | float):
        return torch.as_tensor(np.asarray(value))
    return value


def _refused(part: str, what: str, loader: DataLoader[Any]) -> SpecError:
    maker = loader.collate_fn
    name = getattr(maker, "__name__", type(maker).__name__)
    own = name != "default_collate"
    return refusal(
        Code.E0409,
        f"the `{part}` loader {what}",
        f"let `{name}` give one row for every example, in the order that it gets them and from that "
        "example alone"
        if own
        else "pass the loader's `.dataset`",
        notes=("scores are by example: row n of the data is the data set's example n",),
    )
