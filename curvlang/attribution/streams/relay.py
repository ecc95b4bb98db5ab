"""Scores of all processes brought to the first one, chunk by chunk, so that it can write them."""

from __future__ import annotations

from collections.abc import Iterator

from curvlang.attribution.streams.batch import ScoreBatch, Stream, rows_of
from curvlang.runtime.processes.distributed import World


def relayed(stream: Stream, processes: World) -> Iterator[ScoreBatch]:
    """Every batch, in the first process; in the others nothing, while they compute and send theirs.

    A chunk at a time is held. Used inside `processes.run()`.

    Args:
        stream: The scores.
        processes: Who computes them.
    """
    if processes.size == 1:
        yield from stream.batches()
        return
    shares = [list(processes.owned(stream.cut.count, r)) for r in range(processes.size)]
    for turn in range(stream.turns):
        own = iter(stream.batches([(turn, k) for k in shares[processes.rank]], [turn]))
        if not shares[processes.rank]:
            # What the others wait for is done all the same.
            next(own, None)
        for k in range(max(map(len, shares))):
            for rank, share in enumerate(shares):
                if k < len(share):
                    yield from _passed(stream, processes, rank, (turn, share[k]), own)


def _passed(
    stream: Stream, processes: World, rank: int, unit: tuple[int, int], own: Iterator[ScoreBatch]
) -> Iterator[ScoreBatch]:
    """One batch, from the process that computes it to the first."""
    key = f"scores {unit[0]} {unit[1]}"
    if rank == processes.rank:
        batch = next(own)
        if processes.first:
            yield batch
        else:
            processes.send(key, batch.scores, 0)
    elif processes.first:
        within = stream.cut.chunk(unit[1])
        rows = rows_of(stream, unit[0])
        scores = processes.receive(key, rank, stream.task.device)
        yield ScoreBatch(rows, slice(within.start, within.stop), scores)
