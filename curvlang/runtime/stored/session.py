"""A store at work: fits inside take from it what is there, and leave there what they find."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from curvlang.compiler.planning.planner import DEFAULT
from curvlang.language.chain import Chain, Curvature
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.stored.keys import FitSettings, TaskContent, identity_of_fit, result_key
from curvlang.runtime.stored.parts import read_part, whole
from curvlang.storage.fits.identity import Identity
from curvlang.storage.fits.store import FitStore, different_store

_LOG = logging.getLogger(__name__)

_ACTIVE: ContextVar[Session | None] = ContextVar("store", default=None)


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
        questions: How many the first of the processes has answered for all.
    """

    store: FitStore
    contents: dict[int, TaskContent] = field(default_factory=dict)
    read: dict[str, KeptResult] = field(default_factory=dict)
    questions: int = 0

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
        settings = FitSettings(use.seed, DEFAULT.dense)
        keys = [self.keys(chain, use.seen, True, settings)[0] for chain in use.chains]
        written = not use.alone or "operator" in (self.store.manifest() or {})
        return written and all(self._read(key, use.task) is not None for key in keys)

    def kept(self, keys: Sequence[str], task: Task) -> tuple[KeptResult, ...] | None:
        """Results by their keys, where all of them are there and whole."""
        found = [self._read(key, task) for key in keys]
        whole = tuple(x for x in found if x is not None)
        return whole if len(whole) == len(keys) else None

    @contextmanager
    def run(self) -> Iterator[None]:
        """Questions of a run of its own, which may begin again where the processes were interrupted."""
        before, self.questions = self.questions, 0
        try:
            yield
        finally:
            self.questions = before

    def agreed(self, value: object) -> Any:
        """What the first of the processes says, told to all of them: what is there is looked for once."""
        processes, key = world(), f"store {self.questions}"
        self.questions += 1
        if processes.first:
            processes.tell(key, json.dumps(value))
            return value
        return json.loads(processes.wait(key, 0))

    def gathered(self, value: object) -> list[Any]:
        """What every process says, by rank; all have come here when it is there."""
        key = f"store {self.questions}"
        self.questions += 1
        told = world().exchange(key, json.dumps(value))
        return [json.loads(x) for x in told]

    def missing(self, keys: Sequence[Sequence[str]], task: Task) -> list[int]:
        """Of which chains the results are not there, by their numbers, for all processes.

        Raises:
            SpecError: E0837 where a process cannot read what the first one has read.
        """
        here = [k for k, own in enumerate(keys) if self.kept(own, task) is None]
        found: list[int] = self.agreed(here)
        if set(here) - set(found):
            raise different_store(self.store.path)
        there = len(keys) - len(found)
        _LOG.info("store %s has %d of %d curvatures", self.store.path, there, len(keys))
        return found

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
        seen: The task as the chains see it, at one model or at several together.
        seed: Of sampled columns.
        about: What the manifest says beside the identity.
        alone: Whether the curvature is all that is fitted: the manifest then says what its operator is.
    """

    curvature: Curvature
    chains: Sequence[Chain]
    task: Task
    seen: Sequence[Task]
    seed: int
    about: Mapping[str, Any]
    alone: bool = True


@contextmanager
def kept_in(
    path: str | os.PathLike[str] | None, wanted: Callable[[], Use]
) -> Iterator[Session | None]:
    """Let fits inside use a store; without a path nothing is kept.

    The store is held while work is left to do: another run waits, and says so. One that holds all
    that is asked for is only read. Of several processes the first one holds it for all of them.

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
    with world().run(), ExitStack() as stack:
        session, use = Session(FitStore(path)), wanted()
        identity = identity_of_fit(use.curvature, session.content(use.task), use.seed)
        _open(session, use, identity, stack)
        token = _ACTIVE.set(session)
        try:
            with results_on_disk():
                yield session
            # The lock is given up when no process has anything left to write.
            session.gathered(True)
        finally:
            _ACTIVE.reset(token)
            warn_of_damage(session.store)


def _open(session: Session, use: Use, identity: Identity, stack: ExitStack) -> None:
    """Hold the store, for all processes, where work is left to do."""
    there = session.store.check(identity)
    if session.agreed(there and world().first and session.complete(use)):
        return
    if world().first:
        stack.enter_context(session.store.held())
        session.store.start(identity, use.about)
    session.agreed(True)


def warn_of_damage(store: FitStore) -> None:
    """Say which files were not what had been written, where any were."""
    if store.damaged:
        files = "; ".join(store.damaged)
        text = f"damaged files of the store, not used: {files}; what they held was computed again"
        warnings.warn(text, StoreDamaged, stacklevel=4)
