"""Items of a map-style data set by number: in this process, or by the workers of a loader, one batch ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution.calls import exhausted, whole_text

FEW = 2
"""Items for each worker below which they are not asked: sending them takes longer than reading."""

Reader = Callable[[Sequence[int]], Sequence[Any]]
"""Some items by number."""


class ItemReader:
    """Items, read in this process.

    Args:
        items: `items[k]` is an example; `items.__getitems__`, where there is one, gives several.
        part: `train` or `query`, for messages.
    """

    def __init__(self, items: Any, part: str) -> None:
        self.items = items
        self.part = part

    def __call__(self, numbers: Sequence[int]) -> Sequence[Any]:
        """Some items.

        Raises:
            SpecError: E0407 for what the data set raises.
        """
        several = getattr(self.items, "__getitems__", None)
        if several is not None and numbers:
            return _read(lambda: list(several(list(numbers))), numbers[0], self.part)
        return [_read(partial(self._one, k), k, self.part) for k in numbers]

    def _one(self, number: int) -> Any:
        return self.items[number]


class WorkerReader:
    """Items, read by processes that have the next batch ready where batches follow each other.

    Args:
        loader: Of the data set; its workers and how they are started are taken over.
        part: `train` or `query`, for messages.
    """

    def __init__(self, loader: DataLoader[Any], part: str) -> None:
        self.part = part
        self.few = FEW * loader.num_workers
        self.here = ItemReader(loader.dataset, part)
        self._following = _FollowingBatches(len(loader.dataset))  # type: ignore[arg-type]
        self._given = loader
        self._loader: DataLoader[Any] | None = None
        self._batches: Iterator[Any] = iter(())
        self._expected: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        # Workers belong to one process; another one starts its own.
        return vars(self) | {"_loader": None, "_batches": iter(()), "_expected": []}

    def __call__(self, numbers: Sequence[int]) -> Sequence[Any]:
        """Some items.

        Raises:
            SpecError: E0407 for what the data set raises.
        """
        asked = list(numbers)
        if len(asked) < self.few:
            return self.here(asked)
        if asked != self._expected[: len(asked)] or not self._expected:
            self._following.start(asked)
            self._batches = iter(self._workers())
        self._expected = self._following.after(asked)
        try:
            return list(next(self._batches))
        except Exception as error:
            self._expected = []
            if isinstance(error, CurvlangError) or exhausted(error):
                raise
            # Which item it was is not said by a worker: it is read here, and raises the same.
            self.here(asked)
            raise _failed(error, f"items {asked[0]} to {asked[-1]} are", self.part) from error

    def _workers(self) -> DataLoader[Any]:
        if self._loader is None:
            given = self._given
            self._loader = DataLoader(
                given.dataset,
                batch_sampler=self._following,
                num_workers=given.num_workers,
                collate_fn=list,
                worker_init_fn=given.worker_init_fn,
                multiprocessing_context=given.multiprocessing_context,
                timeout=given.timeout,
                persistent_workers=True,
            )
        return self._loader


class _FollowingBatches:
    """A batch, and those that follow it where examples are read in order.

    Args:
        count: Of all examples.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.first: list[int] = []

    def start(self, first: list[int]) -> None:
        """Begin with these."""
        self.first = first

    def after(self, batch: list[int]) -> list[int]:
        """The batch that is expected after one of consecutive examples; empty where none is."""
        begin = batch[-1] + 1
        if batch != list(range(batch[0], begin)):
            return []
        return list(range(begin, min(self.count, begin + len(self.first))))

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first
        while batch:
            yield batch
            batch = self.after(batch)


def _read(read: Callable[[], Any], number: int, part: str) -> Any:
    try:
        return read()
    except Exception as error:
        if isinstance(error, CurvlangError) or exhausted(error):
            raise
        raise _failed(error, f"item {number} is", part) from error


def _failed(error: Exception, what: str, part: str) -> SpecError:
    return refusal(
        Code.E0407,
        f"the data of `{part}` raises `{type(error).__name__}` where {what} read",
        "make a loop over the data run by itself: the text above is the data set's own",
        notes=(whole_text(error),),
    )
