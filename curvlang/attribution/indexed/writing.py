"""An index is written chunk by chunk, shared by all processes, and gone on with after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.surroundings import OtherModel, Surroundings, stated_models
from curvlang.attribution.indexed.contents import (
    EXACT,
    FORMAT,
    PARAMETER,
    SUMS,
    Contents,
    KeptChunks,
    check_stated,
    chunk_name,
    contents_of,
    names_at,
)
from curvlang.attribution.indexed.kept_parts import sums_program
from curvlang.attribution.indexed.rounding import Rounding, relative_error
from curvlang.attribution.indexed.rounding_error import PROBED, error_of_scores
from curvlang.attribution.indexed.sources import Source, source_key, source_of
from curvlang.attribution.inverses import seen_by
from curvlang.attribution.streams.cut import score_cut
from curvlang.attribution.streams.request import Request
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Interrupted, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.language.chain import ScoreFormula
from curvlang.models.losses.loss import show_dtype
from curvlang.models.task import Task
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.disk import Claim, require_space
from curvlang.runtime.processes.distributed import World, alone, world
from curvlang.runtime.progress.listeners import Progress
from curvlang.runtime.stored.session import warn_of_damage
from curvlang.storage.fits.records import read_record, write_record
from curvlang.storage.fits.store import FitStore, Folder
from curvlang.storage.mapped import DamagedError

KEPT = ("bfloat16", "float16", "float32", "float64")
"""Precisions that an index can be kept in."""
PLAN = "plan.json"


def write_index(
    op: FittedOperator,
    store: FitStore,
    formula: ScoreFormula,
    task: Task,
    stored: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Contents:
    """Write what is kept of the training examples, or what is missing of it.

    Args:
        op: The curvature, of this store.
        store: Where.
        formula: The score.
        task: The training examples; its queries are those that an error is measured on.
        stored: The precision that numbers are kept in; as they are computed where not given.
        progress: Notified how many training examples are done.

    Raises:
        SpecError: E0762 where a score needs whole gradients, E0765 for an index in another precision,
            E0835 for one of other checkpoints or other models.
        MachineError: E0841 where the disk has too little space, E0802 where it is full.
        Interrupted: Where chunks are kept that another run goes on with.
    """
    seen = seen_by(op, task)
    exact = op.operator.dtype
    place = _Place(
        store,
        source_key(op, formula, seen),
        Rounding(stored or exact, exact),
        stated_models(program_of(formula), seen),
    )
    processes = world()
    with processes.run():
        # One that is whole is only read; else the store is held before other models are trained.
        whole = processes.first and place.whole()
        if not json.loads(processes.exchange("index whole", json.dumps(whole))[0]):
            with _held(store, processes):
                source = source_of(op, formula, seen)
                _write(_Run(place, source, processes, seen, progress), op, formula)
    warn_of_damage(store)
    found = contents_of(store, place.key)
    assert found is not None
    return found


def _write(run: _Run, op: FittedOperator, formula: ScoreFormula) -> None:
    contents, missing = run.begun()
    run.write(contents, missing)
    run.processes.exchange("index written", "")
    if run.processes.first:
        with alone():
            run.finish(contents, op, formula)
    run.processes.exchange("index finished", "")


@contextmanager
def _held(store: FitStore, processes: World) -> Iterator[None]:
    """The store is held by the first process, for all of them."""
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(store.held())
        yield


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where an index is written, and what is there.

    Args:
        store: The store.
        key: The index's folder in it.
        rounding: How its numbers are kept.
        stated: Digest of how the task states the other models that its score reads.
    """

    store: FitStore
    key: str
    rounding: Rounding
    stated: str

    @property
    def folder(self) -> Folder:
        """Where."""
        return self.store.index(self.key)

    def whole(self) -> bool:
        """Whether all of it is there, as it was written."""
        found = contents_of(self.store, self.key)
        if found is None:
            return False
        self.check(found)
        return not self.missing(found) and all(map(self.folder.get, found.behind))

    def planned(self) -> Contents | None:
        """As an earlier run has planned it; None where none has."""
        found = contents_of(self.store, self.key) or self._plan_of_before()
        if found is not None:
            self.check(found)
        return found

    def _plan_of_before(self) -> Contents | None:
        try:
            return msgspec.convert(read_record(self.folder.path / PLAN), Contents)
        except (FileNotFoundError, NotADirectoryError, DamagedError, msgspec.ValidationError):
            # Chunks of a plan that is not known may be of another size.
            self.folder.remove()
            return None

    def check(self, found: Contents) -> None:
        """Refuse to go on with an index in another precision, or of other models."""
        wanted = show_dtype(self.rounding.dtype)
        if found.stored != wanted:
            raise another_precision(self.store.path, found.stored, wanted)
        check_stated(self.store.path, found, self.stated)

    def missing(self, contents: Contents) -> list[int]:
        """Chunks that are not there, or are not what was written."""
        names = [chunk_name(k) for k in range(contents.cut.count)]
        there = {name for name in names if self.folder.get(name) is not None}
        if self.rounding.rounds and self.folder.get(EXACT) is None:
            there -= {chunk_name(0)}
        return [k for k, name in enumerate(names) if name not in there]


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """An index that is being written."""

    place: _Place
    source: Source
    processes: World
    task: Task
    progress: Progress | None

    @property
    def folder(self) -> Folder:
        """Where."""
        return self.place.folder

    @property
    def rounding(self) -> Rounding:
        """How numbers are kept."""
        return self.place.rounding

    def begun(self) -> tuple[Contents, list[int]]:
        """The plan, and the chunks that are missing, as the first process sees them."""
        said = ""
        if self.processes.first:
            contents = self._planned()
            missing = self.place.missing(contents)
            self._check_space(contents, missing)
            said = json.dumps([msgspec.to_builtins(contents), missing])
        plain, missing = json.loads(self.processes.exchange("index", said)[0])
        return msgspec.convert(plain, Contents), missing

    def _planned(self) -> Contents:
        """As an earlier run has planned it, or as it is planned now."""
        found = self.place.planned()
        if found is not None:
            return found
        source = self.source
        around, along = source.around, source.around.checkpoints
        contents = Contents(
            FORMAT,
            source.key,
            source.words,
            source.axes,
            self.task.N,
            score_cut(self.task.N, source.most, source.width).size,
            show_dtype(self.rounding.dtype),
            show_dtype(self.rounding.exact),
            (len(around.models), len(along[0]) if along else 0),
            None if around.rates is None else around.rates.tolist(),
            whole=source.whole,
            each=len(along[0][0]) if along else 1,
            times=None if around.times is None else around.times.tolist(),
            stated=self.place.stated,
        )
        write_record(self.folder.path / PLAN, msgspec.to_builtins(contents))
        return contents

    def _check_space(self, contents: Contents, missing: Sequence[int]) -> None:
        bits = torch.finfo(self.rounding.dtype).bits
        each = self.source.width * bits // 8 + 4 * self.rounding.rounds * len(self.source.parts)
        count = sum(len(contents.cut.chunk(k)) for k in missing)
        require_space(Claim(self.place.store.path, count * each))

    def write(self, contents: Contents, missing: Sequence[int]) -> None:
        """The share of this process."""
        own = self.processes.owned(len(missing))
        done = contents.total - sum(len(contents.cut.chunk(k)) for k in missing)
        try:
            for k in missing[own.start : own.stop]:
                within = contents.cut.chunk(k)
                self._write_chunk(k, self.source.values(within))
                self.processes.check()
                done += len(within) * self.processes.size
                if self.progress is not None:
                    self.progress("index", min(done, contents.total), contents.total)
        except KeyboardInterrupt as error:
            names = [x for x in self.folder.names() if x.startswith(chunk_name(0)[:6])]
            raise Interrupted(
                f"{len(names)} of {contents.cut.count} chunks of the index are in `{self.place.store.path}`"
            ) from error

    def _write_chunk(self, number: int, computed: Mapping[str, Tensor]) -> None:
        exact = {name: x.to(self.rounding.exact) for name, x in computed.items()}
        axes, error = self.source.axes, 0.0
        kept = self.rounding.kept(exact, axes)
        if self.rounding.rounds:
            error = relative_error(exact, self.rounding.read(kept), axes)
        if self.rounding.rounds and number == 0:
            sizes = {k: min(PROBED, x.shape[axes[k]]) for k, x in exact.items()}
            few = {k: x.narrow(axes[k], 0, sizes[k]).contiguous() for k, x in exact.items()}
            self.folder.put(EXACT, few, {})
        self.folder.put(chunk_name(number), kept, {"rounding": error})

    def finish(self, contents: Contents, op: FittedOperator, formula: ScoreFormula) -> None:
        """What follows from all chunks, then the record: from then on the index can be read."""
        if self.folder.record() is not None and all(map(self.folder.get, contents.behind)):
            return
        contents.behind = [EXACT] if self.rounding.rounds else []
        for name, tensors in _models(self.source.around):
            self.folder.put(name, tensors, {})
            contents.behind.append(name)
        kept = KeptChunks(self.folder, contents, self.task.device)
        sums = self._sums(formula, kept)
        if sums:
            self.folder.put(SUMS, sums, {})
            contents.behind.append(SUMS)
        contents.rounding = max(map(self._said, range(contents.cut.count)))
        if self.rounding.rounds:
            contents.error = error_of_scores(self.source, kept, op, formula, self.task)
        self.folder.finish(msgspec.to_builtins(contents))

    def _sums(self, formula: ScoreFormula, kept: KeptChunks) -> dict[str, Tensor]:
        """Sums over all training examples that no query has a part in."""
        if self.source.points is None:
            return {}
        program = sums_program(program_of(formula))
        points = replace(self.source.points, kept=kept)
        stream = FormulaStream(program, points, self.task.loss, Request())
        return {name: x.contiguous() for name, x in stream.evaluation(0).sums().items()}

    def _said(self, number: int) -> float:
        found = self.folder.get(chunk_name(number))
        return 0.0 if found is None else float(found[1]["rounding"])


def _models(around: Surroundings) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The files of other models: their parameters, and Adam's running means there."""
    for e, other in enumerate(around.models):
        yield f"model-{e}", _tensors(other)
    for e, row in enumerate(around.checkpoints):
        for h, own in enumerate(row):
            for name, model in zip(names_at(e, h, len(own)), own, strict=True):
                yield name, _tensors(model)


def _tensors(model: OtherModel) -> dict[str, Tensor]:
    own = {PARAMETER + name: p.detach() for name, p in model.task.model.named_parameters()}
    return {k: x.contiguous() for k, x in {**own, **model.moments}.items()}


def check_kept(keep: str | None) -> None:
    """Refuse a precision that an index cannot be kept in; None is that of the computation.

    Raises:
        SpecError: E0765.
    """
    if keep is not None and keep not in KEPT:
        raise refusal(
            Code.E0765, f"an index is not kept in `{keep}`", f"use one of {', '.join(KEPT)}"
        )


def another_precision(path: Path, stored: str, wanted: str) -> SpecError:
    """The refusal of an index in another precision than the one that is there."""
    return refusal(
        Code.E0765,
        f"the index in `{path}` is kept in {stored}, not {wanted}",
        f'give `--keep {stored}` (`keep="{stored}"` in Python), or name another store',
    )
