"""Large data sets whose items are made when they are asked for, and loaders of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import Fields, other_fields, ragged_field
from curvlang.models.data.loaders import check_order
from curvlang.models.data.rows import Pair
from curvlang.models.padding.ragged_rows import RaggedColumn, RaggedRows
from curvlang.models.sources.gathering import Reading, of_batches, of_items
from curvlang.models.sources.item_parts import PartError, item_parts
from curvlang.models.sources.item_readers import ItemReader, WorkerReader
from curvlang.models.sources.item_rows import ItemSource, Parts

PAIR = ("inputs", "targets")


def on_demand(given: Any, how: Reading) -> Pair | Fields | None:
    """The examples of a data set, or of a loader in its order, made when they are asked for.

    Args:
        given: Of any type.
        how: Of its items.

    Returns:
        None where all of them take little memory, and for what has no items by number: it is read once.

    Raises:
        SpecError: E0407, E0409 and E0557 for what the data set gives.
    """
    if isinstance(given, DataLoader):
        return _of_loader(given, how)
    if isinstance(given, IterableDataset) or not hasattr(given, "__getitem__"):
        return None
    return _opened(given, how, _Items(how), ItemReader(given, how.part))


def _of_loader(loader: DataLoader[Any], how: Reading) -> Pair | Fields | None:
    """Those of a loader whose batches are its items, stacked."""
    plain = loader.collate_fn is default_collate and loader.batch_size is not None
    if not plain or isinstance(loader.dataset, IterableDataset):
        return None
    check_order(loader, how.part)
    read = (WorkerReader if loader.num_workers else _here)(loader, how.part)
    return _opened(loader.dataset, how, _Batches(how), read)


def _here(loader: DataLoader[Any], part: str) -> ItemReader:
    return ItemReader(loader.dataset, part)


class _Items:
    """What items become: inputs and targets, or fields.

    Args:
        how: They are read.
    """

    def __init__(self, how: Reading) -> None:
        self.how = how
        self.unread: tuple[str, ...] = ()

    def __call__(self, items: Sequence[Any]) -> Parts:
        """Some of them together."""
        found = self.gathered(items)
        if not isinstance(found, Fields):
            return dict(zip(PAIR, found, strict=True))
        self.unread = found.unread
        return {k: x for k, x in found.values.items() if isinstance(x, Tensor | RaggedColumn)}

    def gathered(self, items: Sequence[Any]) -> Any:
        """Pairs or fields."""
        return of_items(items, self.how)


class _Batches(_Items):
    """What items become in a loader."""

    def gathered(self, items: Sequence[Any]) -> Any:
        """Pairs or fields."""
        return of_batches([default_collate(list(items))], self.how)


def _opened(
    items: Any, how: Reading, made: _Items, read: ItemReader | WorkerReader
) -> Pair | Fields | None:
    try:
        count = len(items)
    except (TypeError, NotImplementedError):
        return None
    if not count:
        return None
    try:
        found = item_parts(ItemSource(read, made, how.part), count)
    except PartError as error:
        raise _other_form(error, how) from error
    if found is None:
        return None
    if set(found) != set(PAIR):
        return Fields(found, made.unread)
    X, y = (found[name] for name in PAIR)
    for rows in (X, y):
        if isinstance(rows, RaggedRows):
            shapes = sorted({int(n) for n in rows.lengths})[:2]
            raise _shapes([(n,) for n in shapes], how)
    assert not isinstance(X, RaggedRows)
    assert not isinstance(y, RaggedRows)
    return X, y


def _other_form(error: PartError, how: Reading) -> SpecError:
    if not error.shapes:
        return other_fields(error.number, error.name, how.part)
    if error.name in PAIR:
        return _shapes(error.shapes, how)
    return ragged_field(error.name, error.shapes, how.part)


def _shapes(shapes: Sequence[tuple[int, ...]], how: Reading) -> SpecError:
    shown = " and ".join(str(list(shape)) for shape in shapes)
    return refusal(
        Code.E0407,
        f"`{how.part}` has examples of different shapes: {shown}",
        "pad the examples to one shape",
    )
