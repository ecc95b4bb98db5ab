"""A run for results of a store: its plan, what each turn of blocks has, and the results, written block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from curvlang.diagnostics.diagnostic import MachineError
from curvlang.models.fingerprint import digest
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.operators import Operator
from curvlang.runtime.limits.disk import Claim, disk_use, require_space
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.stored.parts import Part, read_part, write_part
from curvlang.runtime.stored.run_state import RunState
from curvlang.runtime.stored.session import Session
from curvlang.storage.fits.store import Folder, file_name

Place = tuple[int, int]
"""The numbers of a chain and of a stage in it."""
Blocks = tuple[Operator, ...]
"""The operators of a block, or of several of one shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What there is of a run that is not finished: its plan, and what each turn of blocks has.

    Args:
        session: The store.
        keys: Of the results that are wanted, for every chain.
    """

    session: Session
    keys: Sequence[Sequence[str]]

    @property
    def folder(self) -> Folder:
        """Where."""
        return self.session.store.work(digest(*(key for own in self.keys for key in own))[:32])

    def prepared(self, plan: Callable[[int | None], Preparation]) -> Preparation:
        """The run as it was planned before, so that its sums can be gone on with; else as it is planned now.

        Of several processes the first one plans, the others follow.

        Args:
            plan: Plans it, with batches of so many examples or as it pays.

        Raises:
            MachineError: E0841 where the disk has too little space for it.
        """
        made = self._planned(plan) if world().first else None
        batch, fixed = self.session.agreed(made and [*_said(made)])
        return made or replace(plan(batch), fixed=fixed)

    def _planned(self, plan: Callable[[int | None], Preparation]) -> Preparation:
        record = self.folder.record()
        found = None if record is None else self._again(record, plan)
        if found is not None:
            self._check_space(found)
            return found
        self.folder.remove()
        found = plan(None)
        self._check_space(found)
        batch, fixed = _said(found)
        self.folder.finish({"batch": batch, "fixed": fixed, "code": found.code})
        return found

    def _again(
        self, record: Mapping[str, Any], plan: Callable[[int | None], Preparation]
    ) -> Preparation | None:
        """The plan of a record; None where it does not fit into memory any more, or is another one now."""
        with suppress(MachineError):
            found = replace(plan(record["batch"]), fixed=record["fixed"])
            return found if found.code == record["code"] else None
        return None

    def _check_space(self, prepared: Preparation) -> None:
        results = (self.session.store.result(key) for own in self.keys for key in own)
        there = sum(folder.bytes() for folder in (self.folder, *results))
        use = disk_use(prepared)
        require_space(Claim(self.session.store.path, use.results, use.peak, there))

    def turn(self, number: int, prepared: Preparation, device: torch.device) -> RunState:
        """What a turn has."""
        passes = {
            (k, block.geometry.name): p.passes
            for k, p in enumerate(prepared.plans)
            for block in p.blocks
        }
        return RunState(self.session, self.inner(number), passes, device)

    def inner(self, number: int) -> Folder:
        """The folder of a turn."""
        return self.folder.inner(f"turn-{number + 1}")


def _said(prepared: Preparation) -> tuple[int, float]:
    """What a plan depends on beside shapes: the size of its batches, and what of one does not fall with positions."""
    return (prepared.plans[0].batch if prepared.plans else 1), prepared.fixed


@dataclass(frozen=True, slots=True, eq=False)
class BlockResult:
    """A block of a result, or several of one shape, that can be built.

    Args:
        place: The numbers of chain and stage.
        name: The block's.
        build: Gives its operators.
    """

    place: Place
    name: str
    build: Callable[[], Blocks]


@dataclass(slots=True, eq=False)
class Keeper:
    """Writes the blocks of a run's results, and gives them back mapped; of several processes each writes its share.

    Args:
        work: What there is of the run.
        blocks: Of the parameters, for every stage of every chain; empty where it has none.
        device: Where results are wanted.
    """

    work: Work
    blocks: Sequence[Sequence[Sequence[LayerBlock]]]
    device: torch.device
    written: dict[Place, dict[str, list[str]]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    unkept: set[Place] = field(default_factory=set)

    def kept(self, results: Sequence[BlockResult]) -> list[Blocks]:
        """The operators of blocks, written and mapped; what is known by its products alone is built as it is."""
        processes, files = world(), {}
        for number, result in enumerate(results):
            if number % processes.size == processes.rank:
                files[str(number)] = self._write(result)
        listed = {k: x for own in self.work.session.gathered(files) for k, x in own.items()}
        found = []
        for number, result in enumerate(results):
            files_of = listed[str(number)]
            if files_of is None:
                self.unkept.add(result.place)
            units = files_of and self._mapped(result.place, result.name, files_of)
            found.append(units or result.build())
        return found

    def _write(self, result: BlockResult) -> list[str] | None:
        """The files of a block; None where it cannot be kept."""
        parts = [*self._parts(result.place, result.name, result.build())]
        if not all(part.keepable for _, part in parts):
            return None
        for number, part in parts:
            write_part(self._folder(result.place), number, part)
        return [file_name(number, part.names[0]) for number, part in parts]

    def _mapped(self, place: Place, name: str, files: Sequence[str]) -> Blocks | None:
        """The operators in files, and a note of them; None where one of them is damaged."""
        found = []
        for file in files:
            part = read_part(self._folder(place), file, self.device)
            if part is None:
                return None
            self.names[file] = list(part.names)
            found.append(part.operator)
        self.written.setdefault(place, {})[name] = list(files)
        return tuple(found)

    def ledger(self, number: int, prepared: Preparation) -> RunState:
        """What a turn of blocks has of its passes."""
        return self.work.turn(number, prepared, self.device)

    def end_turn(self, number: int) -> None:
        """Say that all results of a turn of blocks are there; its sums and statistics are removed."""
        if self.unkept or not world().first:
            return
        place = self.work.inner(number)
        listed = [[*at, name, files] for at, x in self.written.items() for name, files in x.items()]
        place.finish({"files": listed})
        place.clear()

    def finished(self, number: int) -> dict[Place, dict[str, Blocks]] | None:
        """The results of a turn of blocks, where all of them are there and whole for all processes."""
        session = self.work.session
        record = self.work.inner(number).record() if world().first else None
        listed = session.agreed(record and record["files"])
        found: dict[Place, dict[str, Blocks]] = {}
        for c, k, name, files in listed or ():
            units = self._mapped((c, k), name, files)
            if units is not None:
                found.setdefault((c, k), {})[name] = units
        count = sum(map(len, found.values()))
        whole = listed is not None and all(session.gathered(count == len(listed)))
        return found if whole else None

    def finish(self, said: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Say that all results are whole, each with its passes, its note and its structures."""
        places = [(c, k) for c, chain in enumerate(said) for k in range(len(chain))]
        for c, k in places if world().first else ():
            if (c, k) not in self.unkept:
                self._folder((c, k)).finish({**self._listed((c, k)), **said[c][k]})
        # They are read back by their records, in every process.
        self.work.session.agreed(True)
        if world().first:
            self.work.folder.remove()

    def _listed(self, place: Place) -> dict[str, Any]:
        written = self.written[place]
        order = [b.name for b in self.blocks[place[0]][place[1]]] or [*written]
        files = [file for name in order for file in written[name]]
        return {"files": files, "names": [self.names[file] for file in files]}

    def _folder(self, place: Place) -> Folder:
        return self.work.session.store.result(self.work.keys[place[0]][place[1]])

    def _parts(self, place: Place, name: str, units: Blocks) -> Iterator[tuple[int, Part]]:
        """The files of a block: their numbers, and what is in them."""
        number = 0
        for block in self.blocks[place[0]][place[1]]:
            if block.name == name and len(units) == 1:
                yield number, Part(block.names, units[0], block.where)
            elif block.name == name:
                for k, (unit, own) in enumerate(
                    zip(units, block.where.parts(block.count), strict=True)
                ):
                    yield number + k, Part((block.names[k],), unit, own)
            number += block.count
        if not self.blocks[place[0]][place[1]]:
            yield 0, Part((name,), units[0], None)
