"""What a store has of a run that is not finished: folded sums of chunks, statistics block by block.

Sums are written so often that writing takes at most a twentieth of the time, and at the end of every pass:
a kill costs at most twenty times what it would have cost to write them, or one batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curvlang.compiler.planning.chunks import Node
from curvlang.runtime.processes.ledger import Begun, Sums
from curvlang.storage.fits.store import Folder, file_name

SHARE = 20
"""Seconds of work for one of writing."""
RATE = 200e6
"""Bytes written in a second, before any writing was timed."""
LEAST = 0.01
"""Seconds that writing takes at least, however small the sums are."""


@dataclass(slots=True)
class Pace:
    """When it is time to write: by the clock, and by how long writing took the last time."""

    last: float = field(default_factory=time.monotonic)
    rate: float = RATE

    def due(self, size: int) -> bool:
        """Whether so many bytes may be written now."""
        return time.monotonic() - self.last >= SHARE * max(LEAST, size / self.rate)

    def wrote(self, size: int, began: float) -> None:
        """So many bytes have been written since `began`."""
        self.last = time.monotonic()
        self.rate = max(size, 1) / max(self.last - began, 1e-6)


class RunState:
    """The part of a run's folder that one turn of blocks has.

    Args:
        folder: Where.
        blocks: The plans' numbers and the names of their blocks, in order.
        passes: How many passes the plan of each block has.
        device: Where sums and statistics are wanted.
    """

    def __init__(
        self,
        folder: Folder,
        blocks: Sequence[tuple[int, str]],
        passes: Mapping[tuple[int, str], int],
        device: torch.device,
    ) -> None:
        self.folder = folder
        self.files = {place: file_name(k, place[1]) for k, place in enumerate(blocks)}
        self.passes = passes
        self.device = device
        self.pace = Pace()

    def known(self, number: int) -> dict[Node, Sums]:
        """The folded subtrees of a pass that are there."""
        found = {}
        for name in self._pass(number).names():
            if (node := _node(name)) and (sums := self._sums(number, name)) is not None:
                found[node] = sums
        return found

    def begun(self, number: int) -> dict[int, Begun]:
        """The chunks of a pass that were under way."""
        found = {}
        for name in self._pass(number).names():
            if (place := _place(name)) and (sums := self._sums(number, name)) is not None:
                found[place[0]] = Begun(*place, sums)
        return found

    def keep(self, number: int, folded: Mapping[Node, Sums], begun: Begun | None) -> None:
        """Write what is not written yet, if it is time to, and remove what it replaces."""
        if begun is not None and not self.pace.due(_bytes(begun.sums)):
            return
        folder, clock = self._pass(number), time.monotonic()
        wanted = {_name(node.lo, "-", node.hi): sums for node, sums in folded.items()}
        if begun is not None:
            wanted[_name(begun.chunk, "+", begun.batches)] = begun.sums
        before = folder.names()
        new = {name: sums for name, sums in wanted.items() if name not in before and sums}
        for name, sums in new.items():
            names = {str(k): place for k, place in enumerate(sums)}
            tensors = {str(k): tensor for k, tensor in enumerate(sums.values())}
            folder.put(name, tensors, {"names": names})
        for name in before:
            if name not in wanted and any(_inside(name, other) for other in wanted):
                folder.drop(name)
        self.pace.wrote(sum(map(_bytes, new.values())), clock)

    def _sums(self, number: int, name: str) -> Sums | None:
        held = self._pass(number).get(name)
        if held is None:
            return None
        # They are added to in place: what is mapped is copied first.
        return {
            place: held[0][k].to(self.device, copy=True) for k, place in held[1]["names"].items()
        }

    def statistics(self, number: int) -> dict[tuple[int, str], dict[str, Tensor]]:
        """What follows from a pass, mapped, of the blocks that it is there of."""
        found = {}
        for place, file in self.files.items():
            if self.passes[place] >= number and (held := self._after(number).get(file)):
                found[place] = {name: x.to(self.device) for name, x in held[0].items()}
        return found

    def complete(self, number: int, known: Mapping[tuple[int, str], object]) -> bool:
        """Whether what follows from a pass is there of all blocks that have it."""
        return len(known) == sum(passes >= number for passes in self.passes.values())

    def finish(self, number: int, plan: int, block: str, statistics: dict[str, Tensor]) -> None:
        """Write the statistics of a block after a pass."""
        self._after(number).put(self.files[plan, block], statistics, {})

    def forget(self, number: int) -> None:
        """Remove the sums of a pass: all that follows from them is there."""
        self._pass(number).remove()

    def _pass(self, number: int) -> Folder:
        return self.folder.inner(f"pass-{number}")

    def _after(self, number: int) -> Folder:
        return self.folder.inner(f"after-{number}")


def _bytes(sums: Sums) -> int:
    return sum(tensor.nbytes for tensor in sums.values())


def _name(first: int, between: str, second: int) -> str:
    return f"{first:06d}{between}{second:06d}"


def _node(name: str) -> Node | None:
    """The subtree of a file's name, `lo-hi`; None for another file's."""
    found = _numbers(name, "-")
    return None if found is None else Node(*found)


def _place(name: str) -> tuple[int, int] | None:
    """The chunk and the number of batches of a file's name, `chunk+batches`; None for another file's."""
    return _numbers(name, "+")


def _numbers(name: str, between: str) -> tuple[int, int] | None:
    first, _, second = name.partition(between)
    return (int(first), int(second)) if first.isdecimal() and second.isdecimal() else None


def _inside(name: str, other: str) -> bool:
    """Whether what one file holds is part of what another holds."""
    place, whole, begun = _place(name), _node(other), _place(other)
    if whole is not None:
        own = _node(name) or (None if place is None else Node(place[0], place[0] + 1))
        return own is not None and whole.lo <= own.lo and own.hi <= whole.hi
    return place is not None and begun is not None and place[0] == begun[0]
