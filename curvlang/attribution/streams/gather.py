"""Scores of all processes, whole in each of them: every one computes its share of the chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from curvlang.attribution.streams.cut import ScoreCut
from curvlang.runtime.processes.distributed import World, world
from curvlang.runtime.processes.in_step import out_of_step

Parts = list[dict[str, Tensor]]
"""Scores of some training examples under every inverse, by the layer's name or under no name."""
Counted = Callable[[int], None]
"""Notified how many examples more are scored."""


def gathered(
    source: Callable[[range], Parts],
    cut: ScoreCut,
    device: torch.device,
    *,
    axis: int = 1,
    told: Counted | None = None,
) -> Parts:
    """Scores of all training examples, the same in every process.

    Args:
        source: Gives the scores of some training examples.
        cut: Their chunks.
        device: Where the scores are wanted.
        axis: Of the training examples.
        told: Notified how many examples are scored, those of the other processes among them.
    """
    processes = world()
    if processes.size == cut.count == 1:
        return _told(source(range(cut.total)), cut.total, told)
    found: Parts = []
    with processes.run():
        own = processes.owned(cut.count)
        with out_of_step():
            for k in own:
                within = cut.chunk(k)
                _place(found, source(within), slice(within.start, within.stop), cut.total, axis)
                _told(found, len(within), told)
        for rank in range(processes.size) if processes.size > 1 else ():
            span = cut.span(processes.owned(cut.count, rank))
            _exchange(processes, rank, found, _Share(span, cut.total, axis, device))
            if rank != processes.rank:
                _told(found, span.stop - span.start, told)
    return found


def common(*numbers: int) -> tuple[int, ...]:
    """The smallest of the numbers that the processes give, in each of them: what all have room for."""
    processes = world()
    if processes.size == 1:
        return numbers
    with processes.run():
        given = [json.loads(text) for text in processes.exchange("sizes", json.dumps(numbers))]
    return tuple(map(min, zip(*given, strict=True)))


def _told(found: Parts, count: int, told: Counted | None) -> Parts:
    if told is not None:
        told(count)
    return found


def _place(found: Parts, parts: Parts, own: slice, total: int, axis: int) -> None:
    """Put the scores of some training examples in their place; what holds all is made first."""
    if not found:
        for part in parts:
            found.append({name: _whole(x, total, axis) for name, x in part.items()})
    for whole, part in zip(found, parts, strict=True):
        for name, x in part.items():
            whole[name].narrow(axis, own.start, own.stop - own.start).copy_(x)


def _whole(x: Tensor, total: int, axis: int) -> Tensor:
    shape = [*x.shape]
    shape[axis] = total
    return x.new_empty(shape)


@dataclass(frozen=True, slots=True)
class _Share:
    """The training examples of one process among `total`, along an axis of the scores."""

    own: slice
    total: int
    axis: int
    device: torch.device

    @property
    def length(self) -> int:
        """How many."""
        return int(self.own.stop - self.own.start)


def _exchange(processes: World, rank: int, found: Parts, share: _Share) -> None:
    """Give the share of one process to the others."""
    if not share.length:
        return
    given = None
    if rank == processes.rank:
        given = {
            f"{k} {name}": x.narrow(share.axis, share.own.start, share.length).contiguous()
            for k, part in enumerate(found)
            for name, x in part.items()
        }
    shared = processes.share(f"scores {rank}", given, rank, share.device)
    if rank == processes.rank:
        return
    parts: Parts = []
    for key, x in shared.items():
        k, _, name = key.partition(" ")
        if int(k) == len(parts):
            parts.append({})
        parts[int(k)][name] = x
    _place(found, parts, share.own, share.total, share.axis)
