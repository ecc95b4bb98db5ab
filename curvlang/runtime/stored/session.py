"""A store at work: fits inside take from it what is there, and leave there what they find."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from curvlang.compiler.planning.planner import DEFAULT
from curvlang.diagnostics.diagnostic import MachineError
from curvlang.language.chain import Chain, Curvature
from curvlang.models.fingerprint import digest
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import LayerBlock
from curvlang.operators import Operator
from curvlang.runtime.limits.disk import disk_use, require_space
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.stored.keys import FitSettings, TaskContent, identity_of_fit, result_key
from curvlang.runtime.stored.parts import Part, read_part, whole, write_part
from curvlang.runtime.stored.run_state import RunState
from curvlang.storage.fits.store import FitStore, Folder, file_name

_ACTIVE: ContextVar[Session | None] = ContextVar("store", default=None)


Place = tuple[int, int]
"""The numbers of a chain and of a stage in it."""
Blocks = tuple[Operator, ...]
"""The operators of a block, or of several of one shape."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptResult:
    """A finished result of a store.

    Args:
        operator: The curvature of the mean loss; its tensors are mapped.
        passes: Over the data, that it took.
        note: What a reader of results has to know of it.
        structures: The structure of every block.
    """

    operator: Operator
    passes: int
    note: str
    structures: Mapping[str, str]


@dataclass(slots=True, eq=False)
class Session:
    """A store that fits use while it is open.

    Args:
        store: The store.
        contents: Hashes of the tasks that were met.
        read: Results that were read, by their keys.
    """

    store: FitStore
    contents: dict[int, TaskContent] = field(default_factory=dict)
    read: dict[str, KeptResult] = field(default_factory=dict)

    def content(self, task: Task) -> TaskContent:
        """The hashes of a task, taken once."""
        found = self.contents.get(id(task))
        if found is None or found.task is not task:
            found = self.contents[id(task)] = TaskContent(task)
        return found

    def keys(
        self, chain: Chain, tasks: Sequence[Task], last: bool, settings: FitSettings
    ) -> tuple[str, ...]:
        """The keys of a chain's results: of its last stage, or of each."""
        contents = [self.content(task) for task in tasks]
        count = len(chain.stages)
        lengths = range(count, count + 1) if last else range(1, count + 1)
        return tuple(result_key(chain, n, contents, settings) for n in lengths)

    def key(self, chain: Chain, task: Task, seed: int) -> str:
        """The key of a whole chain's result."""
        (found,) = self.keys(chain, [task], True, FitSettings(seed, DEFAULT.dense))
        return found

    def complete(self, use: Use) -> bool:
        """Whether nothing is left to do."""
        keys = [self.key(chain, use.seen, use.seed) for chain in use.chains]
        written = not use.alone or "operator" in (self.store.manifest() or {})
        return written and all(self._read(key, use.seen) is not None for key in keys)

    def kept(self, keys: Sequence[str], task: Task) -> tuple[KeptResult, ...] | None:
        """Results by their keys, where all of them are there and whole."""
        found = [self._read(key, task) for key in keys]
        whole = tuple(x for x in found if x is not None)
        return whole if len(whole) == len(keys) else None

    def work(self, keys: Sequence[Sequence[str]]) -> Work:
        """What there is of a run for results of these keys."""
        return Work(self.store.work(digest(*(key for own in keys for key in own))[:32]))

    def check_space(self, prepared: Preparation, work: Work, keys: Iterable[Sequence[str]]) -> None:
        """Refuse a run whose files will not fit on the disk.

        Args:
            prepared: Its plans.
            work: What there is of it.
            keys: Of its results.

        Raises:
            MachineError: E0841.
        """
        results = (self.store.result(key) for own in keys for key in own)
        there = sum(folder.bytes() for folder in (work.folder, *results))
        require_space(self.store.path, disk_use(prepared).peak, there)

    def _read(self, key: str, task: Task) -> KeptResult | None:
        if key in self.read:
            return self.read[key]
        folder = self.store.result(key)
        record = folder.record()
        if record is None:
            return None
        parts = [read_part(folder, file, task.device) for file in record["files"]]
        there = [part for part in parts if part is not None]
        if len(there) < len(parts):
            return None
        said = record["passes"], record["note"], record["structures"]
        self.read[key] = found = KeptResult(whole(there), *said)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The folder of a run that is not finished: its plan, and what each turn of blocks has.

    Args:
        folder: Where.
    """

    folder: Folder

    def prepared(self, plan: Callable[[int | None], Preparation]) -> Preparation:
        """The run as it was planned before, so that its sums can be gone on with; else as it is planned now.

        Args:
            plan: Plans it, with batches of so many examples or as it pays.
        """
        record = self.folder.record()
        if record is not None:
            with suppress(MachineError):
                found = plan(record["batch"])
                found = replace(found, fixed=record["fixed"])
                if _code(found) == record["code"]:
                    return found
            self.folder.remove()
        found = plan(None)
        batch = found.plans[0].batch if found.plans else 1
        self.folder.finish({"batch": batch, "fixed": found.fixed, "code": _code(found)})
        return found

    def turn(self, number: int, prepared: Preparation, device: torch.device) -> RunState:
        """What a turn has."""
        passes = {
            (k, block.geometry.name): p.passes
            for k, p in enumerate(prepared.plans)
            for block in p.blocks
        }
        return RunState(self.inner(number), [*passes], passes, device)

    def inner(self, number: int) -> Folder:
        """The folder of a turn."""
        return self.folder.inner(f"turn-{number + 1}")


def _code(prepared: Preparation) -> str:
    """Hash of all code of a run, and of which blocks it is run for together."""
    texts = [
        f"{p.chunks} {p.batch} {block.geometry} {f.source}"
        for turn in prepared.in_turns()
        for p in turn.plans
        for block in p.blocks
        for f in (*block.passes, *block.finish, *(r.code for r in block.results.values()))
    ]
    return digest(*texts, *(repr(sorted(turn.names)) for turn in prepared.turns))


@dataclass(slots=True, eq=False)
class Keeper:
    """Writes the blocks of a run's results as they are made, and gives them back mapped.

    Args:
        session: The store.
        work: What there is of the run.
        keys: Of every stage of every chain.
        blocks: Of the parameters, for every stage of every chain; empty where it has none.
        device: Where results are wanted.
    """

    session: Session
    work: Work
    keys: Sequence[Sequence[str]]
    blocks: Sequence[Sequence[Sequence[LayerBlock]]]
    device: torch.device
    written: dict[Place, dict[str, list[str]]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    unkept: set[Place] = field(default_factory=set)

    def kept(self, place: Place, name: str, units: Blocks) -> Blocks:
        """The operators of a block, or of several of one shape, written and mapped.

        Args:
            place: The numbers of chain and stage.
            name: The block's.
            units: Its operators; what is known by its products alone is given back as it is.
        """
        parts = [*self._parts(place, name, units)]
        if not all(part.keepable for _, part in parts):
            self.unkept.add(place)
            return units
        folder = self._folder(place)
        for number, part in parts:
            write_part(folder, number, part)
        files = [file_name(number, part.names[0]) for number, part in parts]
        return self._mapped(place, name, files) or units

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
        if not self.unkept:
            place = self.work.inner(number)
            place.remove()
            listed = [
                [*at, name, files] for at, x in self.written.items() for name, files in x.items()
            ]
            place.finish({"files": listed})

    def finished(self, number: int) -> dict[Place, dict[str, Blocks]] | None:
        """The results of a turn of blocks, where all of them are there and whole."""
        record = self.work.inner(number).record()
        if record is None:
            return None
        found: dict[Place, dict[str, Blocks]] = {}
        for c, k, name, files in record["files"]:
            units = self._mapped((c, k), name, files)
            if units is None:
                return None
            found.setdefault((c, k), {})[name] = units
        return found

    def finish(self, said: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Say that all results are whole, each with its passes, its note and its structures."""
        for c, chain in enumerate(said):
            for k, values in enumerate(chain):
                if (c, k) not in self.unkept:
                    self._folder((c, k)).finish({**self._listed((c, k)), **values})
        self.work.folder.remove()

    def _listed(self, place: Place) -> dict[str, Any]:
        written = self.written[place]
        order = [b.name for b in self.blocks[place[0]][place[1]]] or [*written]
        files = [file for name in order for file in written[name]]
        return {"files": files, "names": [self.names[file] for file in files]}

    def _folder(self, place: Place) -> Folder:
        return self.session.store.result(self.keys[place[0]][place[1]])

    def _parts(self, place: Place, name: str, units: Blocks) -> Iterator[tuple[int, Part]]:
        """The files of a block: their numbers, and what is in them."""
        number = 0
        for block in self.blocks[place[0]][place[1]]:
            if block.name == name and len(units) == 1:
                yield number, Part(block.names, units[0], block.index)
            elif block.name == name:
                for k, unit in enumerate(units):
                    yield number + k, Part((block.names[k],), unit, block.places[k])
            number += block.count
        if not self.blocks[place[0]][place[1]]:
            yield 0, Part((name,), units[0], None)


class StoreDamaged(UserWarning):
    """Files of a store were not what had been written: their content was computed again."""


def active() -> Session | None:
    """The store that fits use at the moment."""
    return _ACTIVE.get()


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """What a store is opened for.

    Args:
        curvature: The spec's: what the store is of.
        chains: All that is going to be fitted.
        task: In the precision of the passes.
        seen: The task as the chains see it.
        seed: Of sampled columns.
        about: What the manifest says beside the identity.
        alone: Whether the curvature is all that is fitted: the manifest then says what its operator is.
    """

    curvature: Curvature
    chains: Sequence[Chain]
    task: Task
    seen: Task
    seed: int
    about: Mapping[str, Any]
    alone: bool = True


@contextmanager
def kept_in(
    path: str | os.PathLike[str] | None, wanted: Callable[[], Use]
) -> Iterator[Session | None]:
    """Let fits inside use a store; without a path nothing is kept.

    The store is held while work is left to do: another run waits, and says so. One that holds all
    that is asked for is only read.

    Args:
        path: The store; made where there is none.
        wanted: What for; asked where there is a store.

    Raises:
        SpecError: E0835 for a store of something else, E0836 to E0838 for one that cannot be used.
        MachineError: E0802 where the disk is full.
    """
    if path is None:
        yield None
        return
    session, use = Session(FitStore(path)), wanted()
    identity = identity_of_fit(use.curvature, session.content(use.task), use.seed)
    with ExitStack() as stack:
        if not (session.store.check(identity) and session.complete(use)):
            stack.enter_context(session.store.held())
            session.store.start(identity, use.about)
        token = _ACTIVE.set(session)
        try:
            with results_on_disk():
                yield session
        finally:
            _ACTIVE.reset(token)
            _warn_of_damage(session.store)


def _warn_of_damage(store: FitStore) -> None:
    if store.damaged:
        files = "; ".join(store.damaged)
        text = f"damaged files of the store, not used: {files}; what they held was computed again"
        warnings.warn(text, StoreDamaged, stacklevel=4)
