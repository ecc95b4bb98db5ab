"""Fits as the command makes them: the task's model trained, the curvature fitted, both kept in a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import validated
from curvlang.evaluation.named_task import trained
from curvlang.facade import as_spec, fit, named_task
from curvlang.language.chain import Chain, Curvature, Spec
from curvlang.language.selection import chains_of, chosen
from curvlang.language.task_sources import TaskSource
from curvlang.models.origin import Origin
from curvlang.models.task import Task
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.disk import Claim, disk_use, require_space
from curvlang.runtime.limits.memory import limited
from curvlang.runtime.limits.planned import planned
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.others import without_ignored
from curvlang.runtime.prepare import Preparation, prepare
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.setup import Setup
from curvlang.runtime.stored.keys import TaskContent, identity_of_fit, training_key
from curvlang.storage.fits.identity import check_identity
from curvlang.storage.fits.store import FitStore, Folder, identity_of
from curvlang.training.baseline import filled


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FitReport(Display):
    """A fitted curvature in its store; printable.

    Args:
        operator: It.
        name: The curvature's.
        task: What it was fitted on.
        store: Where it lies.
    """

    operator: FittedOperator
    name: str
    task: Task
    store: Path

    @property
    def bytes(self) -> int:
        """Of the store on the disk."""
        return FitStore(self.store).bytes()

    def header(self) -> Iterator[str]:
        """What was fitted on what, a line each."""
        blocks = self.operator.blocks
        count = f"{len(blocks)} block{'s' * (len(blocks) != 1)}"
        yield f"curvature: {self.name}, {self.operator.structure}, {count}"
        yield f"task: {self.task!r}"
        yield f"parameters: {self.task.origin.text}"
        yield f"kept in {self.store} ({size(self.bytes)} on the disk)"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "curvature": self.name,
            "structure": self.operator.structure,
            "blocks": list(self.operator.blocks),
            "task": repr(self.task),
            "parameters": self.task.origin.text,
            "store": str(self.store),
            "bytes": self.bytes,
        }

    def _summary(self) -> str:
        return f"of {self.name}: {self.operator.structure}, in {self.store}"

    def __str__(self) -> str:
        return "\n".join(self.header())


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FitRequest(Display):
    """A fit that can be made: what could be refused has been checked.

    Args:
        spec: The spec.
        curvature: Its curvature.
        task: Model and data; the model is trained first where it was described.
        setup: Device, precision, memory, seed and store.
    """

    spec: Spec
    curvature: Curvature
    task: Task
    setup: Setup

    def _summary(self) -> str:
        return f"of {self.curvature.name or 'curvature'} on {self.task!r}"

    def run(self, progress: ProgressOption = True) -> FitReport:
        """Train the task's model where it was described, and fit the curvature.

        Args:
            progress: Shown on standard error; `False` for nothing, or a function that is called as
                work proceeds.

        Raises:
            Interrupted: By Ctrl-C; what is fitted so far is kept.
        """
        setup, store = self.setup, self.setup.store
        assert store is not None
        with shown(progress, "cv.fit_request") as told:
            task = trained_in(setup, self.task, told).to(precision=setup.policy)
            op = kept_fit(self.spec, self.curvature, task, setup, told)
        return FitReport(op, self.curvature.name or "curvature", task, store)


def kept_fit(
    spec: Spec, curvature: Curvature, task: Task, setup: Setup, progress: Progress | None
) -> FittedOperator:
    """A spec's curvature, fitted into the store of a setup.

    Raises:
        Interrupted: By Ctrl-C; what is fitted so far is kept.
    """
    try:
        return fit(
            spec,
            task,
            curvature=curvature.name or None,
            seed=setup.seed,
            memory=setup.memory,
            store=setup.store,
            progress=progress,
        )
    except KeyboardInterrupt as error:
        raise Interrupted(f"what is fitted so far is kept in `{setup.store}`") from error


@validated
def fit_request(
    spec: Spec | str | Path,
    task: Task | TaskSource | None = None,
    setup: Setup | None = None,
    *,
    curvature: str | None = None,
) -> FitRequest:
    """Ask for a fit that is kept; what the layers, the memory or the store rule out is refused.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: A trained model with its data; or what replaces lines of the spec's own task, whose
            model is then trained.
        setup: Device, precision, memory and seed, and the store.
        curvature: Which of the spec's curvatures; the one evaluated last where not given.

    Raises:
        SpecError: With every problem of the spec and the task; E0835 to E0838 for a store of something
            else, or one that cannot be used.
        MachineError: E0801 for a fit that does not fit into memory, E0841 for one that the disk has no
            space for.
    """
    whole, setup = as_spec(spec), setup or Setup()
    found = chosen(whole, curvature)
    if not isinstance(task, Task):
        _, task = named_task(whole, found, task, setup)
    check_store(setup, found, task)
    with limited(setup.memory), results_on_disk(setup.store is not None):
        planned((found,), without_ignored(chains_of(found), task.to(precision=setup.policy)))
        require_space(*claims_of(setup, chains_of(found), task))
    return FitRequest(whole, found, task, setup)


def check_store(setup: Setup, curvature: Curvature, task: Task) -> None:
    """Refuse a store, before a model is trained, that is of something else or cannot be used.

    Args:
        setup: With the store, where there is one.
        curvature: What is fitted.
        task: Its model need not be trained: then it is not compared.

    Raises:
        SpecError: E0835 to E0838.
    """
    if setup.store is None:
        return
    store = FitStore(setup.store)
    manifest = store.manifest()
    if manifest is None:
        store.probe()
        return
    kept = identity_of(manifest, store.path)
    wanted = identity_of_fit(curvature, TaskContent(task.to(precision=setup.policy)), setup.seed)
    if task.origin.trained:
        check_identity(store.path, kept, wanted)
        return
    check_identity(store.path, kept, replace(wanted, model=kept.model))
    others = store.models().names()
    if others and training_key(task, setup.seed, setup.policy.dtype) not in others:
        # What it was trained by is known without training it once more.
        found = store.models().get(others[0])
        how = () if found is None else (f"its model was {found[1]['origin']}",)
        check_identity(store.path, kept, replace(wanted, model=""), how)


def claims_of(
    setup: Setup,
    chains: Sequence[Chain],
    task: Task,
    index: Callable[[Preparation], int] | None = None,
) -> tuple[Claim, ...]:
    """What a store is going to take of its disk, known before a model is trained; nothing without a store.

    Args:
        setup: With the store, where there is one.
        chains: All that is going to be fitted.
        task: Its model need not be trained.
        index: Bytes of an index that is written after the fit, by its plans.
    """
    if setup.store is None:
        return ()
    store = FitStore(setup.store)
    done = "operator" in (store.manifest() or {})
    if done and (index is None or store.indexes()):
        # What else is fitted beside it, and the rest of an index, are looked at when they are planned.
        return ()
    prepared = _prepared(chains, task.to(precision=setup.policy))
    found = 0 if index is None else index(prepared)
    if done:
        return (Claim(store.path, found),)
    model = 0 if task.origin.trained else sum(p.nbytes for p in task.model.parameters())
    use = disk_use(prepared)
    final = model + use.results + found
    return (Claim(store.path, final, model + use.peak, store.bytes()),)


def trained_in(setup: Setup, fresh: Task, progress: Progress | None = None) -> Task:
    """The task with a trained model, which a store keeps: it is trained once.

    Args:
        setup: With the store, where there is one, the seed, and the precision of the fit.
        fresh: A task whose model is initialised, or came with its parameters.
        progress: Notified of every epoch.
    """
    seed = setup.seed
    if setup.store is None or fresh.origin.trained:
        return trained(fresh, seed, progress)
    place = FitStore(setup.store)
    key = training_key(fresh, seed, setup.policy.dtype)
    found = place.models().get(key)
    with world().run():
        there = world().exchange("trained model in the store", str(found is not None))
    if len(there) > 1 and "False" in there:
        # All train it together, or wait for the one that does: then all have the same.
        return _trained_and_kept(place, key, fresh, seed, progress)
    if found is None:
        with place.held():
            # Another run may have trained it while this one waited.
            found = place.models().get(key)
            if found is None:
                return _trained_and_kept(place, key, fresh, seed, progress)
    tensors, text = found
    return filled(fresh, seed, tensors, Origin(text["origin"], seed=seed))


def _trained_and_kept(
    place: FitStore, key: str, fresh: Task, seed: int, progress: Progress | None
) -> Task:
    task = trained(fresh, seed, progress)
    if world().first:
        _keep_model(place.models(), key, task)
    return task


def _keep_model(folder: Folder, key: str, task: Task) -> None:
    tensors: dict[str, Tensor] = dict(task.model.named_parameters())
    folder.put(key, tensors, {"origin": task.origin.text})


@validated
def store_report(
    spec: Spec | str | Path, source: TaskSource | None = None, setup: Setup | None = None
) -> list[str]:
    """What is already in a store, and what a finished one takes on the disk, a line each.

    Args:
        spec: A spec, a path, or the name of one that ships.
        source: What replaces the task, or lines of it.
        setup: With the store.

    Raises:
        SpecError: E0835 to E0838 for a store of something else, or one that cannot be read.
    """
    setup = setup or Setup()
    assert setup.store is not None
    whole = as_spec(spec)
    found = chosen(whole)
    _, task = named_task(whole, found, source, setup)
    check_store(setup, found, task)
    return [*_state(FitStore(setup.store)), f"a finished fit takes {size(disk_bytes(found, task))}"]


def disk_bytes(curvature: Curvature, task: Task) -> int:
    """Predicted bytes of a fitted curvature on the disk: its blocks, and their places."""
    return disk_use(_prepared(chains_of(curvature), task)).results


def _prepared(chains: Sequence[Chain], task: Task) -> Preparation:
    """Plans of a fit whose results lie in a store."""
    seen = without_ignored(chains, task)
    with results_on_disk():
        return task.retried(lambda: prepare(chains, seen, last=True))


def _state(store: FitStore) -> Iterator[str]:
    manifest = store.manifest()
    if manifest is None:
        yield f"store {store.path}: nothing is there yet"
        return
    kept = identity_of(manifest, store.path)
    done = "finished" if "operator" in manifest else "not finished"
    yield f"store {store.path}: `{kept.curvature}` of {kept.task}, seed {kept.seed}"
    yield f"  {done}, {size(store.bytes())} on the disk"
    yield from (f"  {line}" for line in store.progress())
