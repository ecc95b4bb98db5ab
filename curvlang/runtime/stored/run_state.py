"""What a store has of a run that is not finished: folded sums of chunks, statistics block by block.

Sums are written so often that writing takes at most a twentieth of the time, and at the end of every pass:
a kill costs at most twenty times what it would have cost to write them, or one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from curvlang.compiler.planning.chunks import Node
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.processes.ledger import Begun, Sums
from curvlang.runtime.stored.session import Session
from curvlang.storage.fits.store import Folder, different_store, file_name
from curvlang.storage.tensors import Text

Key = TypeVar("Key")
Value = TypeVar("Value")
Source = Any
Block = tuple[int, str]
"""The number of a plan, and the name of a block."""

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
    """The part of a run's folder that one turn of blocks has: its ledger, which several processes write to.

    A process writes the subtrees and the chunk under way that are its own. What is there is listed, and
    checked, by the first process for all of them.

    Args:
        session: The store.
        folder: Where.
        passes: How many passes the plan of each block has, by the plan's number and the block's name.
        device: Where sums and statistics are wanted.
    """

    def __init__(
        self,
        session: Session,
        folder: Folder,
        passes: Mapping[Block, int],
        device: torch.device,
    ) -> None:
        self.session = session
        self.folder = folder
        self.files = {block: file_name(k, block[1]) for k, block in enumerate(passes)}
        self.passes = passes
        self.device = device
        self.pace = Pace()

    def known(self, number: int) -> Mapping[Node, Sums]:
        """The folded subtrees of a pass that are there; each is read when it is asked for."""
        files = self._listed(self._pass(number), _node)
        return _Lazy({node: x for name, x in files.items() if (node := _node(name))}, self._sums)

    def begun(self, number: int) -> Mapping[int, Begun]:
        """The chunks of a pass that were under way."""
        files = self._listed(self._pass(number), _place)
        # Of one chunk there are two where a run was killed before it removed the older sums.
        places = sorted((place, name) for name in files if (place := _place(name)))
        latest = {chunk: (batches, files[name]) for (chunk, batches), name in places}
        return _Lazy(
            {chunk: (chunk, *found) for chunk, found in latest.items()},
            lambda found: Begun(found[0], found[1], self._sums(found[2])),
        )

    def keep(self, number: int, folded: Mapping[Node, Sums], begun: Begun | None) -> None:
        """Write what is not written yet, if it is time to, and remove what it replaces."""
        wanted = {_name(node.lo, "-", node.hi): sums for node, sums in folded.items() if sums}
        if begun is not None:
            wanted[_name(begun.chunk, "+", begun.batches)] = begun.sums
            if not self.pace.due(sum(map(_bytes, wanted.values()))):
                return
        folder, clock, written = self._pass(number), time.monotonic(), 0
        before = folder.names()
        for name, sums in wanted.items():
            if name not in before:
                written += _bytes(sums)
                names = {str(k): place for k, place in enumerate(sums)}
                folder.put(name, {str(k): x for k, x in enumerate(sums.values())}, {"names": names})
            for other in before:
                if other not in wanted and _inside(other, name):
                    folder.drop(other)
        self.pace.wrote(written, clock)

    def _listed(self, folder: Folder, read: Callable[[str], object] = bool) -> dict[str, _File]:
        """The files of a folder that are whole, of those whose names can be read so."""
        names = filter(read, folder.names()) if world().first else ()
        here = {name: folder.get(name) for name in names}
        whole = self.session.agreed([name for name, found in here.items() if found is not None])
        return {name: _File(folder, name, here.get(name)) for name in whole}

    def _sums(self, file: _File) -> Sums:
        tensors, text = file.read()
        # They are added to in place: what is mapped is copied first.
        return {place: tensors[k].to(self.device, copy=True) for k, place in text["names"].items()}

    def statistics(self, number: int) -> dict[Block, dict[str, Tensor]]:
        """What follows from a pass, mapped, of the blocks that it is there of."""
        there = self._listed(self._after(number))
        return {
            block: {name: x.to(self.device) for name, x in there[file].read()[0].items()}
            for block, file in self.files.items()
            if self.passes[block] >= number and file in there
        }

    def complete(self, number: int, known: Mapping[tuple[int, str], object]) -> bool:
        """Whether what follows from a pass is there of all blocks that have it."""
        return len(known) == sum(passes >= number for passes in self.passes.values())

    def finish(self, number: int, plan: int, block: str, statistics: dict[str, Tensor]) -> None:
        """Write the statistics of a block after a pass."""
        self._after(number).put(self.files[plan, block], statistics, {})

    def forget(self, number: int) -> None:
        """Remove the sums of a pass: all that follows from them is there."""
        if world().first:
            self._pass(number).remove()

    def _pass(self, number: int) -> Folder:
        return self.folder.inner(f"pass-{number}")

    def _after(self, number: int) -> Folder:
        return self.folder.inner(f"after-{number}")


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A file that was found whole: by its name, and its content where this process has looked at it."""

    folder: Folder
    name: str
    held: tuple[dict[str, Tensor], Text] | None

    def read(self) -> tuple[dict[str, Tensor], Text]:
        """Its tensors, mapped, and its text.

        Raises:
            SpecError: E0837 where this process does not find what the first one has found.
        """
        found = self.held or self.folder.get(self.name)
        if found is None:
            raise different_store(self.folder.path)
        return found


class _Lazy(Mapping[Key, Value]):
    """Values that are made of what is known of them when they are asked for."""

    def __init__(self, sources: Mapping[Key, Source], make: Callable[[Source], Value]) -> None:
        self._sources = sources
        self._make = make

    def __getitem__(self, key: Key) -> Value:
        return self._make(self._sources[key])

    def __iter__(self) -> Iterator[Key]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


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
