"""Where the own positions of every padded row begin and end, and batches of rows that are alike in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.models.data.fields import IGNORED
from curvlang.models.data.rows import Rows, pieces
from curvlang.models.losses.draws import Draws
from curvlang.models.losses.loss import Loss

ENOUGH = 2048
"""Positions of a batch that is worth a pass of its own."""
WASTED = 0.125
"""Padding that such a batch may have, of its rows' own positions."""

RowsAt = Callable[[float], int]
"""How many rows make a batch that has a share of all positions."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some examples of a part.

    Args:
        X: Inputs, [B, …].
        y: Targets.
        rows: The examples' numbers in the part, on the host.
        window: The positions that are kept of them; None for all.
        placed: The numbers on the examples' own device, where they are a tensor.
    """

    X: Tensor
    y: Tensor
    rows: slice | Tensor
    window: slice | None = None
    placed: Tensor | None = None

    @property
    def places(self) -> slice | Tensor:
        """The examples' numbers, to index what is on their device."""
        return self.rows if self.placed is None else self.placed

    def __len__(self) -> int:
        return len(self.X)

    def draws(self, seed: int, number: int, before: int = 0) -> Draws:
        """Where the random numbers of its examples come from, in a pass with a number.

        Args:
            seed: Of the run.
            number: Of the pass.
            before: Examples of other parts that are counted before those of its own.
        """
        if isinstance(self.rows, slice):
            return Draws(seed, number, before + self.rows.start)
        place = 0 if self.window is None else self.window.start
        rows = self.rows if self.placed is None else self.placed
        return Draws(seed, number, before, rows, place)

    @property
    def start(self) -> int | Tensor:
        """The first example's number, or those of all."""
        return self.rows.start if isinstance(self.rows, slice) else self.rows


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """The positions of every row from the first that counts to the last; padding lies outside.

    Args:
        first: The first position of every row, [N].
        stop: One behind the last, [N].
        width: Positions of a padded row.
    """

    first: Tensor
    stop: Tensor
    width: int

    @property
    def lengths(self) -> Tensor:
        """Positions of every row, [N]."""
        return self.stop - self.first

    @property
    def share(self) -> float:
        """Of all positions, those that are not padding."""
        return float(self.lengths.double().mean()) / self.width

    def at(self, rows: Tensor | slice) -> Spans:
        """Those of some rows, whose numbers may be on another device."""
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return Spans(self.first[rows], self.stop[rows], self.width)

    def window(self) -> slice:
        """The positions that any of the rows has."""
        return slice(int(self.first.min()), int(self.stop.max()))

    def batches(
        self, rows_at: Callable[[int], int], within: range
    ) -> Iterator[tuple[Tensor, slice]]:
        """Rows of like length together: their numbers in rising order, and the positions they need.

        Args:
            rows_at: How many rows of a width make a batch.
            within: The rows that are cut into batches.
        """
        own = self.at(slice(within.start, within.stop))
        order = torch.argsort(own.lengths, stable=True)
        firsts, stops = own.first[order].tolist(), own.stop[order].tolist()
        begin, low, high, filled = 0, self.width, 0, 0
        for k, (first, stop) in enumerate(zip(firsts, stops, strict=True)):
            wider = min(low, first), max(high, stop)
            width = wider[1] - wider[0]
            padding = (k - begin + 1) * width - filled - (stop - first)
            wasteful = filled >= ENOUGH and padding > WASTED * filled
            if k > begin and (wasteful or k - begin >= rows_at(width)):
                yield _chosen(order[begin:k], within, low, high)
                begin, wider, filled = k, (first, stop), 0
            low, high = wider
            filled += stop - first
        if len(order):
            yield _chosen(order[begin:], within, low, high)


@dataclass(frozen=True, slots=True, eq=False)
class BatchRows:
    """Which examples a batch has.

    Args:
        rows: Their numbers in the part.
        window: The positions that are kept of them; None for all.
    """

    rows: slice | Tensor
    window: slice | None = None

    def __len__(self) -> int:
        own = self.rows
        return own.stop - own.start if isinstance(own, slice) else len(own)


def batch_rows(spans: Spans | None, rows_at: RowsAt, within: range) -> Iterator[BatchRows]:
    """Consecutive rows, or rows of like length where there are spans.

    Args:
        spans: Of rows whose padding is cut off; None for others.
        rows_at: How many rows make a batch that has a share of all positions.
        within: The rows that are cut into batches.
    """
    if spans is None:
        size = rows_at(1.0)
        for k in range(within.start, within.stop, size):
            yield BatchRows(slice(k, min(k + size, within.stop)))
        return
    width = spans.width
    for rows, window in spans.batches(lambda own: rows_at(own / width), within):
        yield BatchRows(rows, window)


def _chosen(order: Tensor, within: range, low: int, high: int) -> tuple[Tensor, slice]:
    return order.sort().values + within.start, slice(low, high)


def counted_positions(mask: Tensor, y: Rows, ignored: int) -> Tensor:
    """The positions of a mask, and those that have a label."""
    if y.shape != mask.shape or y.dtype != torch.int64:
        return mask
    return mask | torch.cat([labels != ignored for _, labels in pieces(y)]).to(mask.device)


def own_spans(mask: Tensor, y: Rows, loss: Loss) -> Spans | None:
    """The spans of what counts of rows: their mask and their labels; None where every row fills all positions."""
    return spans_of(counted_positions(mask, y, getattr(loss, "ignore_index", IGNORED)))


def spans_of(counted: Tensor) -> Spans | None:
    """The spans of a mask [N, T]; None where every row fills all positions.

    Args:
        counted: True where a position counts; holes inside a row belong to it.
    """
    places = torch.arange(counted.shape[1], device=counted.device)
    first = torch.where(counted, places, counted.shape[1]).amin(1).cpu()
    stop = torch.where(counted, places + 1, 0).amax(1).cpu()
    found = Spans(torch.minimum(first, stop), stop.clamp_min(1), counted.shape[1])
    full = bool((found.lengths == counted.shape[1]).all())
    return None if full else found


def in_order(rows: Sequence[slice | Tensor], parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """What batches gave for their examples, in the order of the examples.

    Args:
        rows: Of every batch, the numbers of its examples.
        parts: What it gave, with an entry for every example on `axis`.
        axis: The examples' axis.
    """
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)
    places = [own for own in rows if isinstance(own, Tensor)]
    if not places:
        return whole
    order = torch.argsort(torch.cat(places))
    return whole.index_select(axis, order.to(whole.device))
