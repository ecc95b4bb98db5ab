"""What a model itself holds for an example while it runs forward and backward, measured on one or two."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from curvlang.models.data.rows import StoredRows
from curvlang.models.execution.torch_state import OperationMode
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.models.tracing.half_precision import exact_leaves
from curvlang.models.tracing.leaves import Columns, Fisher, LeafRequest
from curvlang.runtime.limits.memory import allowance

_KNOWN: WeakKeyDictionary[nn.Module, dict[object, int]] = WeakKeyDictionary()
NEGLIGIBLE = 2**23
"""Bytes of leaves and outputs below which nothing is measured: what the model holds beside them is a small
multiple, and fits wherever anything does."""
FORWARD = 512
"""Examples that go through the model alone at once."""
FORWARD_BYTES, FORWARD_SHARE = 2**27, 8
"""Bytes that they may take, and their share of the user's limit."""
NEGLIGIBLE_SHARE = 32
"""Share of the user's limit that is as little."""


def negligible() -> int:
    """Bytes below which nothing is measured, fewer under a limit that is small itself."""
    return allowance(NEGLIGIBLE, NEGLIGIBLE_SHARE)


def activation_bytes(
    task: Task,
    loss: Loss,
    blocks: Sequence[LayerBlock],
    columns: Columns | None,
    examples: int,
    each: int = 1,
) -> int:
    """Bytes that one example adds to the peak of a forward and backward pass, its leaves included.

    Measured once for each model, kind of example and columns: all tensors that are alive at the same
    time, the outputs and what autograd keeps, but not the workspaces of library calls.

    Args:
        task: Model and data.
        loss: Of which gradients are taken.
        blocks: The blocks whose leaves are computed.
        columns: Which columns go backward; None for the forward pass alone.
        examples: As many as will go through the model at once: where they are few and small, 0 is
            returned and nothing is measured.
        each: How many columns of an example go backward together.
    """
    if few_bytes(task, blocks, examples, each):
        return 0
    key = (
        task.train[0].shape[1:],
        task.dtype,
        loss.identity,
        *(() if columns is None else (columns.kind, columns.samples)),
        tuple(b.name for b in blocks),
    )
    known = _KNOWN.setdefault(task.model, {})
    if key not in known:
        known[key] = _measured(task, loss, blocks, columns)
    return known[key]


def few_bytes(task: Task, blocks: Sequence[LayerBlock], examples: int, each: int) -> bool:
    """Whether some examples are so few and small that nothing is measured."""
    X, y = task.train
    size = torch.empty((), dtype=task.precision).element_size()
    shown = sum(b.leaf_elements + (each - 1) * b.count * b.positions * b.d_out for b in blocks)
    outputs = y[:1].numel() if y[:1].is_floating_point() else 0
    return examples * size * max(shown, outputs, X[:1].numel()) < negligible()


def forward_batch(task: Task, part: str = "train") -> int:
    """Examples that go through the model and the loss alone at once: fewer than is usual where they are large."""
    row = task.part(part)[0]
    read = max(reading_bytes(task, part), row.shape[1:].numel() * row.dtype.itemsize)
    each = read + _forward_bytes(task)
    return max(1, min(FORWARD, allowance(FORWARD_BYTES, FORWARD_SHARE) // each))


def _forward_bytes(task: Task) -> int:
    """Bytes that one example adds to a forward pass and its losses, by running one and two."""

    def peak(count: int) -> int:
        X, y = next(task.batches(count))
        with torch.no_grad():
            return live_bytes(lambda: task.loss.per_example(task.model(X), y))

    one = peak(1)
    return max(1, one if task.N == 1 else peak(2) - one)


def _measured(task: Task, loss: Loss, blocks: Sequence[LayerBlock], columns: Columns | None) -> int:
    """The difference that a second example makes; of a task of one, what the one takes."""
    wants = {"a"} if columns is None else {"a", "g"}
    request = LeafRequest(wants, columns or Fisher(), Draws(0))

    def peak(count: int) -> int:
        X, y = next(task.batches(count))
        return live_bytes(lambda: exact_leaves(task.model, loss, X, y, blocks, request))

    one = peak(1)
    return one if task.N == 1 else max(0, peak(2) - one)


def reading_bytes(task: Task, part: str = "train") -> int:
    """Bytes that an example takes that is read from where it is stored; 0 for one in memory.

    A batch is read while the one before it is still there.
    """
    return sum(
        rows.known("bytes of reading", lambda rows=rows: _read(rows))  # type: ignore[misc]
        for rows in task.part(part)
        if isinstance(rows, StoredRows)
    )


def _read(rows: StoredRows) -> int:
    """The row, and what a second one adds while it is read; of a single row, what the one takes."""
    row = rows.shape[1:].numel() * rows.dtype.itemsize
    one = live_bytes(lambda: rows[:1])
    more = one if len(rows) == 1 else live_bytes(lambda: rows[:2]) - one
    return row + max(more, row)


def live_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors made by a function held at the same time."""
    mode = _LiveBytes()
    with mode:
        result = run()
    del result
    return mode.most


class _LiveBytes(OperationMode):
    """Adds up the storages that operations make, as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.most = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The operation itself; its results count until they are gone."""
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if _plain(x)}
        found = func(*args, **(kwargs or {}))
        for x in tree_leaves(found):
            if _plain(x):
                self._add(x.untyped_storage(), given)
        self.most = max(self.most, self.now)
        return found

    def _add(self, storage: Any, given: set[int]) -> None:
        if storage in self._seen or id(storage) in given:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def _plain(x: object) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided
