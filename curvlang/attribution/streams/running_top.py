"""The largest and the smallest scores of every query, kept while the scores go by: never the whole matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from curvlang.attribution.streams.batch import PairStream
from curvlang.runtime.processes.distributed import World, world


class RunningTop:
    """The k largest and the k smallest numbers of every row, with their places; ties go to the earlier place.

    What was added in which order makes no difference.

    Args:
        k: How many of each kind at most.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._kept: dict[tuple[int, int], list[_Kept]] = {}

    def add(self, rows: slice, start: int, scores: Tensor) -> None:
        """Numbers [R, n] of some rows, at the places from `start` on."""
        kept = self._kept.setdefault((rows.start, rows.stop), [])
        found = [_first(scores.double(), start, self.k), _first(-scores.double(), start, self.k)]
        kept[:] = [_best([*old, new], self.k) for old, new in zip(_each(kept), found, strict=True)]

    def table(self, *, largest: bool) -> tuple[Tensor, Tensor]:
        """Numbers and places [rows, k], the largest first, or the smallest."""
        parts = [self._kept[rows][0 if largest else 1] for rows in sorted(self._kept)]
        values, places = (torch.cat(x) for x in zip(*parts, strict=True))
        return (values if largest else -values), places

    def merge(self, processes: World) -> None:
        """Take the extremes of all processes, the same in each of them."""
        everyone = [
            processes.share(
                f"top {rank}",
                self._tensors() if rank == processes.rank else None,
                rank,
                torch.device("cpu"),
            )
            for rank in range(processes.size)
        ]
        found: dict[tuple[int, int], list[list[_Kept]]] = {}
        for tensors in everyone:
            for name in dict.fromkeys(key.rpartition(" ")[0] for key in tensors):
                start, stop, kind = map(int, name.split())
                parts = found.setdefault((start, stop), [[], []])
                parts[kind].append((tensors[f"{name} values"], tensors[f"{name} places"]))
        self._kept = {rows: [_best(x, self.k) for x in parts] for rows, parts in found.items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{start} {stop} {kind} {what}": x
            for (start, stop), kept in self._kept.items()
            for kind, pair in enumerate(kept)
            for what, x in zip(("values", "places"), pair, strict=True)
        }


_Kept = tuple[Tensor, Tensor]
"""Numbers [R, k], the largest first, and their places."""


def _each(kept: list[_Kept]) -> list[list[_Kept]]:
    return [[x] for x in kept] or [[], []]


def _first(scores: Tensor, start: int, k: int) -> _Kept:
    """The k largest of every row; of equal ones the first."""
    count = scores.shape[1]
    values, places = scores.topk(min(k + 1, count))
    if count > k and bool((values[:, k - 1] == values[:, k]).any()):
        # More than k would do: those at the earliest places are wanted.
        values, places = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k].cpu(), places[:, :k].cpu() + start


def _best(parts: list[_Kept], k: int) -> _Kept:
    values, places = (torch.cat(x, 1) for x in zip(*parts, strict=True))
    by_place = places.argsort(1)
    values, places = values.gather(1, by_place), places.gather(1, by_place)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    return values.gather(1, order), places.gather(1, order)


def streamed_top(stream: PairStream, k: int) -> RunningTop:
    """The extremes of every query of a stream, in every process those of all training examples.

    Args:
        stream: Scores that are one number for every pair.
        k: How many of each kind at most.
    """
    processes, progress = world(), stream.request.progress
    found = RunningTop(k)
    with processes.run():
        chunks = processes.owned(stream.cut.count)
        units = [(turn, chunk) for turn in range(stream.turns) for chunk in chunks]
        total = stream.task.N * stream.turns
        for number, batch in enumerate(stream.batches(units, range(stream.turns)), 1):
            assert batch.rows is not None
            (scores,) = batch.scores.values()
            found.add(batch.rows, batch.train.start, scores)
            if progress is not None:
                progress("scores", number * total // len(units), total)
        if processes.size > 1:
            found.merge(processes)
    return found
