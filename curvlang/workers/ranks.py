"""Units over the processes of a group: each takes the next one that no other has taken; all get all results."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from curvlang.runtime.processes.distributed import alone, world
from curvlang.workers.executor import Results, Work

_HOST = torch.device("cpu")


class Ranks:
    """The processes of a group, which all run the same work at the same time."""

    def agreed(self, units: Sequence[str]) -> list[str]:
        """As `Executor.agreed`: what any process lacks, in one order."""
        place = world()
        with place.run():
            given = place.exchange("units", json.dumps(list(units)))
        return sorted({unit for told in given for unit in json.loads(told)})

    def run(self, work: Work, units: Sequence[str]) -> Results:
        """Every unit that any process wants; those done here first, then those of the others."""
        place = world()
        with place.run():
            wanted = self.agreed(units)
            own = {}
            for unit in wanted:
                if place.claim(unit):
                    with alone():
                        own[unit] = work.do(unit)
                    yield unit, own[unit]
                place.check()
            for rank in range(place.size):
                tensors = {unit: _sent(content) for unit, content in own.items()}
                given = tensors if rank == place.rank else None
                found = place.share(f"results of {rank}", given, rank, _HOST)
                if rank != place.rank:
                    yield from ((unit, _received(x)) for unit, x in found.items())


def _sent(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _received(x: torch.Tensor) -> bytes:
    return x.numpy().tobytes()
