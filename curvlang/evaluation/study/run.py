"""A study from cell to cell: what is kept is read, what is missing is run, all of it is merged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Interrupted
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.ground_truth import loss_values
from curvlang.evaluation.protocol import LDS, SWEEP, protocol_from
from curvlang.evaluation.study.cell import Machine, run_cell
from curvlang.evaluation.study.merge import merge
from curvlang.evaluation.study.result import CellFound, FirstModel, StudyResult
from curvlang.language import default_inverse
from curvlang.language.chain import Chain, Curvature, Part, Study, StudyCell
from curvlang.language.law import sampled
from curvlang.models.losses.draws import VERSION as DRAWS
from curvlang.models.task import Task
from curvlang.version import VERSION

SCHEMA = "study-cell-3"
"""Changes whenever the same key would mean other numbers."""

Values = Mapping[str, NDArray[np.float32]]


class Store(Protocol):
    """Where finished cells are kept by name, each written whole or not at all."""

    def get(self, key: str) -> tuple[CellFound, Values] | None:
        """A finished cell, or None."""

    def put(self, key: str, cell: CellFound, values: Values) -> None:
        """Keep a cell."""


@dataclass(frozen=True, slots=True)
class Work:
    """One model of one cell: `place` is the cell's among the study's, `truth` names what it shares."""

    place: int
    cell: StudyCell
    seed: int
    protocol: LDS | None
    key: str
    truth: str

    @property
    def title(self) -> str:
        """`depth = 4, seed 0`."""
        values = [f"{name} = {value}" for name, value in self.cell.values.items()]
        return ", ".join([*values, f"seed {self.seed}"])


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`, counted from 1."""

    index: int
    count: int

    @staticmethod
    def read(text: str) -> Shard:
        """`2/3`.

        Raises:
            SpecError: E0918 where the text is no part of a whole.
        """
        first, slash, second = text.partition("/")
        if slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second):
            return Shard(int(first), int(second))
        raise refusal(
            Code.E0918,
            f"`--shard {text}` is no part of a whole",
            "write `--shard 1/3`, `--shard 2/3` and `--shard 3/3` on three machines",
        )


def quick(study: Study) -> Study:
    """One model of each cell; protocols are made small where the work is listed."""
    return replace(study, seeds=study.seeds[:1])


def work_of(study: Study, machine: Machine, *, small: bool = False) -> tuple[Work, ...]:
    """Every model of every cell, those with the same ground truth next to each other."""
    found = []
    for place, cell in enumerate(study.cells):
        protocol = None if cell.lds is None else protocol_from(cell.lds)
        if protocol is not None and small:
            protocol = protocol.quick()
        for seed in study.seeds:
            key = _key(study, cell, seed, protocol, machine)
            found.append(Work(place, cell, seed, protocol, key, _truth(cell, seed, protocol)))
    return tuple(found)


def part(work: Sequence[Work], shard: Shard | None) -> tuple[Work, ...]:
    """A shard's part: whole groups of one ground truth, so that no two machines retrain the same."""
    if shard is None:
        return tuple(work)
    groups = list(dict.fromkeys(w.truth for w in work))
    mine = {g for k, g in enumerate(groups) if k % shard.count == shard.index - 1}
    return tuple(w for w in work if w.truth in mine)


Told = Callable[[int, int, Work, CellFound | None], None]
"""Told which of how many is about to run (no cell yet), and again with what was found."""


def run_missing(
    study: Study,
    work: Sequence[Work],
    store: Store,
    machine: Machine,
    *,
    told: Told | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> int:
    """Run what the store does not hold; every finished cell is kept at once.

    Returns:
        How many cells were run.

    Raises:
        Interrupted: On Ctrl-C, with what is kept.
    """
    missing = [w for w in work if store.get(w.key) is None]
    for k, item in enumerate(missing):
        if told is not None:
            told(k, len(missing), item, None)
        try:
            cell, values = run_cell(study, item.cell, item.seed, item.protocol, machine, progress)
        except KeyboardInterrupt as error:
            kept = len(work) - len(missing) + k
            raise Interrupted(f"{kept} of {len(work)} cells of the study are kept") from error
        store.put(item.key, cell, values)
        if told is not None:
            told(k, len(missing), item, cell)
    return len(missing)


def gather(
    study: Study,
    work: Sequence[Work],
    store: Store,
    *,
    provenance: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> StudyResult:
    """The study's result from the cells that are there; those that are missing are counted."""
    held = [(w, found) for w in work if (found := store.get(w.key)) is not None]
    groups = []
    first_models = []
    for place in range(len(study.cells)):
        cells = [found for w, found in held if w.place == place]
        if cells:
            count = len(cells[0][0].results)
            groups += [merge(cells, len(study.path), k) for k in range(count)]
            first = cells[0][0]
            first_models.append(
                FirstModel(first.values, first.seed, first.spectra, first.attributed)
            )
    return StudyResult(
        name=study.name,
        question=study.doc,
        version=VERSION,
        axes=dict(study.axes),
        seeds=study.seeds,
        path=tuple(c.name for c in study.path),
        methods=(*(c.name for c in study.curvatures), *(b.name for b in study.baselines)),
        baselines=tuple(b.name for b in study.baselines),
        done=len(held),
        cells=len(work),
        groups=tuple(groups),
        first_models=tuple(first_models),
        notes=tuple(notes),
        provenance=dict(provenance or {}),
    )


def _key(study: Study, cell: StudyCell, seed: int, protocol: LDS | None, machine: Machine) -> str:
    """All that decides a cell's numbers, and nothing else: not the other cells, not the seeds."""
    parts = (
        SCHEMA,
        machine.version,
        str(machine.dtype),
        machine.device.type,
        torch.__version__.partition("+")[0],
        _content(machine.fresh(cell.task, seed)),
        seed,
        repr(protocol),
        [(c.name, _curvature(c)) for c in study.curvatures],
        len(study.path),
        repr(study.inverses or default_inverse()),
        study.damping or SWEEP,
        dict(cell.values),
        study.name,
        [_part(p) for p in (*study.baselines, *study.measures)],
        *([f"draws {DRAWS}"] if any(map(sampled, _read(study))) else ()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _read(study: Study) -> list[Curvature]:
    """Every curvature that the study fits."""
    named = (part.curvature for part in (*study.baselines, *study.measures))
    return [*study.curvatures, *(c for c in named if c is not None)]


def _part(part: Part) -> tuple[object, ...]:
    """A baseline or a measure: its arguments, and what the curvature is that one of them names."""
    named = () if part.curvature is None else (_curvature(part.curvature),)
    return part.name, sorted(part.arguments.items()), *named


def _content(task: Task) -> str:
    """Data, architecture, initial parameters, recipe and loss: a changed file is another cell."""
    return task.fingerprint() + loss_values(task.loss, task)


def _truth(cell: StudyCell, seed: int, protocol: LDS | None) -> str:
    """What retraining depends on of a cell: its models share it where they start afresh."""
    own = protocol is None or protocol.initialisation == "shared"
    text = repr((_task(cell), protocol, seed if own else None))
    return hashlib.sha256(text.encode()).hexdigest()


def _task(cell: StudyCell) -> tuple[object, ...]:
    task = cell.task
    return (task.data, task.model, task.loss, task.train)


def _curvature(curvature: Curvature) -> object:
    if isinstance(curvature, Chain):
        return tuple(stage.key for stage in curvature.stages)
    return tuple((weight, _curvature(term)) for weight, term in curvature.terms)
