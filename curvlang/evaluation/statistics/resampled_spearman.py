"""Rank correlations in resamples: every sample is sorted once, and ranks are sums of counts.

In a resample an item stands as often as it was drawn, c[k], and all its copies share their average
rank. With the items in their order the rank is r = Σ_{l before k} c[l] + (c[k] + 1)/2: no resample
is sorted. The squares of ranks about their mean add up to (K³ − Σ c³)/12 where the sample itself has
no ties, whatever its order: one number for a resample.

Counts stand with resamples last, so that rows of them are moved whole and the sums of counts are
products with a triangle, over blocks of `BLOCK` items and over the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 16
"""Items in a block."""
AT_ONCE = 2**18
"""Counts of the resamples that are gone through at once: a mebibyte stays in a cache."""


@dataclass(frozen=True, slots=True, eq=False)
class SortedSample:
    """A sample `[Q, K]` sorted once: the order, its inverse, and where groups of ties end.

    `tied` says of each query whether it has ties; `first` and `last` are None where none has.
    """

    order: Tensor
    place: Tensor
    tied: tuple[bool, ...]
    first: Tensor | None
    last: Tensor | None


def sort(values: Tensor) -> SortedSample:
    """Sort along the last axis of `[Q, K]`."""
    ordered, order = values.sort(dim=1, stable=True)
    numbers = torch.arange(values.shape[1], device=values.device).expand_as(order)
    place = torch.empty_like(order).scatter_(1, order, numbers)
    same = ordered[:, 1:] == ordered[:, :-1]
    tied = tuple(same.any(1).tolist())
    if not any(tied):
        return SortedSample(order, place, tied, None, None)
    edge = torch.ones_like(same[:, :1])
    starts, ends = torch.cat([edge, ~same], 1), torch.cat([~same, edge], 1)
    first = torch.where(starts, numbers, 0).cummax(1).values
    last = torch.where(ends, numbers, values.shape[1] - 1).flip(1).cummin(1).values.flip(1)
    return SortedSample(order, place, tied, first, last)


class Resampling:
    """Some resamples: counts, and what ranks need of them.

    Args:
        counts: How often each resample draws each item, `[B, K]`; float32, in which sums of
            counts are exact up to 2²³ items.
    """

    __slots__ = ("counts", "items", "low", "triangle", "untied")

    def __init__(self, counts: Tensor) -> None:
        self.items = K = counts.shape[1]
        blocks = -(-K // BLOCK)
        # Items that fill the last block are drawn never: they have the row of zeros.
        self.counts = torch.cat([counts.T, counts.new_zeros(1, len(counts))])
        sums = torch.ones(BLOCK, BLOCK).tril(-1) + torch.eye(BLOCK) / 2
        self.triangle = torch.cat([sums, torch.ones(1, BLOCK)]).to(counts)
        self.low = torch.ones(blocks, blocks).tril(-1).to(counts)
        self.untied = (float(K) ** 3 - counts.double().pow(3).sum(1)) / 12

    def ranks(self, sample: Rows, q: int) -> tuple[Tensor, Tensor, Tensor]:
        """Counts and centred ranks of a query's sample `[rows, B]`, and the ranks' squared norm `[B]`.

        Ranks are centred at their mean (K + 1)/2.
        """
        along = self.counts.index_select(0, sample.rows[q])
        blocks, B = len(self.low), along.shape[1]
        sums = self.triangle @ along.view(BLOCK, blocks * B)
        mean = torch.full((), -self.items / 2).to(along)
        before = torch.addmm(mean, self.low, sums[BLOCK].view(blocks, B))
        ranks = sums[:BLOCK].view(BLOCK, blocks, B).add_(before).view(BLOCK * blocks, B)
        if not sample.tied[q] or sample.first is None or sample.last is None:
            return along, ranks, self.untied
        half = along / 2
        start = (ranks - half).index_select(0, sample.first[q])
        ranks = (ranks + half).index_select(0, sample.last[q]).add_(start).div_(2)
        return along, ranks, (ranks * ranks).mul_(along).sum(0).double()


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A sample in the layout of `Resampling`, all of it `[Q, rows]`.

    The item of sorted place p stands in row (p mod BLOCK) · blocks + p // BLOCK, so that the items
    of one place in all blocks are one row of a product.

    Args:
        rows: The item of every row; K for rows that fill the last block.
        link: The row in another sample of the same item.
        tied: Whether a query has ties.
        first: The row where the group of ties begins.
        last: The row where it ends.
    """

    rows: Tensor
    link: Tensor
    tied: tuple[bool, ...]
    first: Tensor | None
    last: Tensor | None


def in_rows(sample: SortedSample, other: SortedSample) -> Rows:
    """A sample in blocks, with its items' rows in another."""
    K = sample.order.shape[1]
    blocks = -(-K // BLOCK)

    def row(places: Tensor) -> Tensor:
        return places % BLOCK * blocks + places // BLOCK

    def laid(values: Tensor, rest: int) -> Tensor:
        filled = values.new_full((len(values), blocks * BLOCK - K), rest)
        whole = torch.cat([values, filled], 1)
        return whole.unflatten(1, (blocks, BLOCK)).mT.flatten(1)

    link = row(other.place.gather(1, sample.order))
    ends = [None if x is None else laid(row(x), 0) for x in (sample.first, sample.last)]
    return Rows(laid(sample.order, K), laid(link, 0), sample.tied, ends[0], ends[1])


def correlations(samples: list[Rows], target: Rows, counts: Tensor) -> Tensor:
    """Spearman of every sample with the target in resamples: `[samples, B, Q]`, 0 where constant.

    Args:
        samples: Each linked to the target.
        target: What they are compared with.
        counts: `[B, K]`.
    """
    out = torch.zeros(len(samples), len(counts), len(target.tied), dtype=torch.float64)
    for k, q, products, norm in _products(samples, target, counts):
        out[k, :, q] = _quotient(products.sum(0).double(), norm)
    return out


def correlation_parts(samples: list[Rows], target: Rows, counts: Tensor, parts: Tensor) -> Tensor:
    """What the items of each part add to Spearman's correlation in resamples: `[samples, F, B, Q]`.

    Ranks and norms are those of all items, so that the parts add up to the correlation.

    Args:
        samples: Each linked to the target.
        target: What they are compared with.
        counts: `[B, K]`.
        parts: `[F, K]`, 1 where an item belongs to a part.
    """
    shape = len(samples), len(parts), len(counts), len(target.tied)
    out = torch.zeros(shape, dtype=torch.float64)
    # Items that fill the last block belong to no part.
    belongs = torch.cat([parts.to(counts), counts.new_zeros(len(parts), 1)], 1)
    for k, q, products, norm in _products(samples, target, counts):
        added = (belongs[:, samples[k].rows[q]] @ products).double()
        out[k, :, :, q] = _quotient(added, norm)
    return out


def _products(
    samples: list[Rows], target: Rows, counts: Tensor
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """For each sample and query: the products of both centred ranks `[rows, B]`, and of their norms `[B]`."""
    drawn = Resampling(counts)
    for q in range(len(target.tied)):
        _, y, y_square = drawn.ranks(target, q)
        for k, sample in enumerate(samples):
            along, x, x_square = drawn.ranks(sample, q)
            products = x.mul_(along).mul_(y.index_select(0, sample.link[q]))
            yield k, q, products, (x_square * y_square).sqrt()


def _quotient(inner: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm > 0, inner / norm.clamp(min=1e-12), 0.0)
