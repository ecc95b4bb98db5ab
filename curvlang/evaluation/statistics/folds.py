"""Folds of subsets and of queries, and a setting chosen in some of them and scored in the others.

An LDS is a sum over folds: with the ranks of all subsets, the subsets of fold f and the queries of
fold g add t[f, g] to it. For every (f, g) the setting is the one with the largest score in the folds
that share neither subsets nor queries with it, and the honest score is Σ t[f, g] at these settings.
A resample draws an item several times, and all its copies stay in one fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SUBSET_FOLDS = 5
QUERY_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """Which subsets `[F, K]` and queries `[G, Q]` belong to each fold, as zeros and ones."""

    subsets: Tensor
    queries: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class FoldScores:
    """What each fold adds to a score.

    Args:
        both: Subsets and queries resampled, `[…, B, F, G]`.
        subsets: Subsets alone resampled, likewise.
        sample: Nothing resampled, each query's, `[…, F, Q]`.
    """

    both: Tensor
    subsets: Tensor
    sample: Tensor

    def __getitem__(self, at: object) -> FoldScores:
        """One method's, or some of them."""
        return FoldScores(self.both[at], self.subsets[at], self.sample[at])  # type: ignore[index]


def draw_folds(subsets: int, queries: int, seed: int) -> Folds:
    """Random folds of equal sizes: five of each, fewer where there are fewer items."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(items: int, most: int) -> Tensor:
        count = min(most, items)
        number = torch.randperm(items, generator=generator) % count
        return torch.nn.functional.one_hot(number, count).T.float()

    return Folds(drawn(subsets, SUBSET_FOLDS), drawn(queries, QUERY_FOLDS))


def choose(parts: Tensor) -> Tensor:
    """The setting with the largest score in the folds that share nothing with a fold, `[…, F, G]`.

    Args:
        parts: `[settings, …, F, G]`. With one fold of queries the setting is chosen on the other
            subsets alone, and the other way round.
    """
    rows, columns = parts.sum(-1, keepdim=True), parts.sum(-2, keepdim=True)
    whole = rows.sum(-2, keepdim=True)
    if parts.shape[-1] == 1:
        rest = whole - rows
    elif parts.shape[-2] == 1:
        rest = whole - columns
    else:
        rest = whole - rows - columns + parts
    return rest.argmax(0)


def held_out(parts: Tensor) -> Tensor:
    """The honest score, `[…]`: every fold at the setting that the others choose.

    Args:
        parts: `[settings, …, F, G]`.
    """
    return at(parts, choose(parts))


def at(parts: Tensor, settings: Tensor) -> Tensor:
    """The score `[…]` with a setting for every fold.

    Args:
        parts: `[settings, …, F, G]`.
        settings: `[…, F, G]`, as `choose` gives them.
    """
    return parts.gather(0, settings[None])[0].sum((-2, -1))


def held_out_sample(sample: Tensor, folds: Folds) -> tuple[Tensor, Tensor]:
    """The honest score of each query `[Q]`, and the setting chosen for each fold `[F, G]`.

    Args:
        sample: `[settings, F, Q]`.
        folds: Of subsets and of queries.
    """
    grouped = folds.queries.to(sample)
    chosen = choose(sample @ grouped.T)
    of_query = chosen[:, folds.queries.argmax(0)]
    return sample.gather(0, of_query[None])[0].sum(0), chosen
