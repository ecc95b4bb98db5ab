"""What a store has of a run that is not finished: sums over the batches so far, statistics block by block.

Sums are written so often that writing takes at most a twentieth of the time, and at the end of every pass:
a kill costs at most twenty times what it would have cost to write them, or one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curvlang.storage.fits.store import Folder, file_name

Sums = Sequence[dict[str, dict[str, Tensor]]]
"""What is added up: for every plan by block and name."""

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

    def resumed(self, number: int, sums: Sums) -> int:
        """Fill in the sums of a pass that is under way; over how many batches they are."""
        folder = self._pass(number)
        for name in reversed(folder.names()):
            found = folder.get(name)
            if found is None or not name.isdecimal():
                continue
            self._fill(sums, found[0], found[1]["names"])
            return int(name)
        return 0

    def _fill(
        self, sums: Sums, tensors: Mapping[str, Tensor], names: Mapping[str, list[str]]
    ) -> None:
        for key, (plan, block, name) in names.items():
            # They are added to in place: what is mapped is copied first.
            sums[int(plan)][block][name] = tensors[key].to(self.device, copy=True)

    def keep(self, number: int, batches: int, sums: Sums, ended: bool) -> None:
        """Write the sums over the batches so far, if it is time to, or the pass has ended."""
        held = [*_flat(sums)]
        size = sum(tensor.nbytes for _, tensor in held)
        if not held or not (ended or self.pace.due(size)):
            return
        folder, began = self._pass(number), time.monotonic()
        before = folder.names()
        names = {str(k): place for k, (place, _) in enumerate(held)}
        tensors = {str(k): tensor for k, (_, tensor) in enumerate(held)}
        folder.put(f"{batches:08d}", tensors, {"names": names})
        for name in before:
            folder.drop(name)
        self.pace.wrote(size, began)

    def statistics(self, number: int) -> dict[tuple[int, str], dict[str, Tensor]]:
        """What follows from a pass, mapped, of the blocks that it is there of."""
        found = {}
        for place, file in self.files.items():
            if self.passes[place] >= number and (held := self._after(number).get(file)):
                found[place] = {name: x.to(self.device) for name, x in held[0].items()}
        return found

    def has_all(self, number: int, known: Mapping[tuple[int, str], object]) -> bool:
        """Whether what follows from a pass is there of all blocks that have it."""
        return len(known) == sum(passes >= number for passes in self.passes.values())

    def keeping(self, number: int, plan: int) -> Callable[[str, dict[str, Tensor]], None]:
        """What writes the statistics of a plan's blocks after a pass."""

        def keep(block: str, tensors: dict[str, Tensor]) -> None:
            self._after(number).put(self.files[plan, block], tensors, {})

        return keep

    def forget_sums(self, number: int) -> None:
        """Remove the sums of a pass: all that follows from them is there."""
        self._pass(number).remove()

    def _pass(self, number: int) -> Folder:
        return self.folder.inner(f"pass-{number}")

    def _after(self, number: int) -> Folder:
        return self.folder.inner(f"after-{number}")


def _flat(sums: Sums) -> Iterator[tuple[tuple[int, str, str], Tensor]]:
    for plan, blocks in enumerate(sums):
        for block, named in blocks.items():
            for name, tensor in named.items():
                yield (plan, block, name), tensor
