"""The cells of a study: listed with the keys of their content, divided into shards, and merged into one result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.protocol import LDS, protocol_from
from curvlang.evaluation.question import Question, Run, question_of_study
from curvlang.evaluation.retraining.truth_request import loss_values
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.merge import merge
from curvlang.evaluation.study.study_result import FirstModel, StudyResult
from curvlang.language import default_inverse
from curvlang.language.chain import Chain, Curvature, Part, Study, StudyCell
from curvlang.language.law import sampled
from curvlang.models.losses.draws import VERSION as DRAWS
from curvlang.models.losses.metric import query_metric
from curvlang.models.task import Task
from curvlang.version import VERSION

SCHEMA = "study-cell-5"
"""Changes whenever the same key would mean other numbers."""


@dataclass(frozen=True, slots=True)
class Work:
    """One model of one cell: `place` is the cell's among the study's, `truth` names what it shares."""

    place: int
    cell: StudyCell
    seed: int
    protocol: LDS | None
    key: str
    truth: str
    question: Question

    def run(self, how: Run) -> Run:
        """How this model is trained and evaluated."""
        return _seeded(how, self.seed, self.protocol)

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
            SpecError: E0918 where the text is not a part of a whole.
        """
        first, slash, second = text.partition("/")
        if slash and first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second):
            return Shard(int(first), int(second))
        raise refusal(
            Code.E0918,
            f"`--shard {text}` is not a part of a whole",
            "write `--shard 1/3`, `--shard 2/3` and `--shard 3/3` on three machines",
        )


def quick(study: Study) -> Study:
    """One model of each cell; protocols are made small where the work is listed."""
    return replace(study, seeds=study.seeds[:1])


def work_of(study: Study, run: Run, *, small: bool = False, **changes: Any) -> tuple[Work, ...]:
    """Every model of every cell, those with the same ground truth next to each other.

    Args:
        study: The study.
        run: How cells are run.
        small: A small protocol.
        **changes: Fields of the questions (`evaluation.question.Question`) that the language has no
            words for.
    """
    found = []
    for place, cell in enumerate(study.cells):
        question = question_of_study(study, cell.task, **changes)
        protocol = None if cell.lds is None else protocol_from(cell.lds)
        if protocol is not None and small:
            protocol = protocol.quick()
        for seed in study.seeds:
            key = _key(question, cell, _seeded(run, seed, protocol))
            truth = _truth(cell, seed, protocol)
            found.append(Work(place, cell, seed, protocol, key, truth, question))
    return tuple(found)


def part(work: Sequence[Work], shard: Shard | None) -> tuple[Work, ...]:
    """A shard's part: whole groups of one ground truth, so that no two machines retrain the same."""
    if shard is None:
        return tuple(work)
    groups = list(dict.fromkeys(w.truth for w in work))
    mine = {g for k, g in enumerate(groups) if k % shard.count == shard.index - 1}
    return tuple(w for w in work if w.truth in mine)


def gather(
    study: Study,
    work: Sequence[Work],
    store: CellFolder,
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


def _seeded(run: Run, seed: int, protocol: LDS | None) -> Run:
    return replace(run, setup=replace(run.setup, seed=seed), protocol=protocol)


def _key(question: Question, cell: StudyCell, run: Run) -> str:
    """All that decides a cell's numbers, and nothing else: not the other cells, not the seeds."""
    fresh, metric = run.fresh(cell.task), question.metric
    name = metric if isinstance(metric, str) else query_metric(metric, fresh.loss).cost.identity
    parts = (
        SCHEMA,
        VERSION,
        f"torch.{run.precision}",
        torch.device(run.setup.device).type,
        torch.__version__.partition("+")[0],
        _content(fresh),
        run.seed,
        repr(run.protocol),
        [(c.name, _curvature(c)) for c in question.curvatures],
        question.path,
        repr(tuple(x or default_inverse() for x in question.inverses)),
        question.sweep,
        dict(cell.values),
        question.name,
        [_part(p) for p in (*question.baselines, *question.measures)],
        *([repr(fresh.trajectory)] if any(p.score for p in question.baselines) else ()),
        (name, repr(question.solver)),
        None if question.reference is None else _curvature(question.reference),
        *([f"draws {DRAWS}"] if any(map(sampled, question.chains())) else ()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _part(part: Part) -> tuple[object, ...]:
    """A baseline or a measure: its arguments, its formula, and the curvature and the inverse that it solves with."""
    named = () if part.curvature is None else (_curvature(part.curvature),)
    formula = () if part.score is None else (repr(part.score),)
    inverse = () if part.inverse is None else (repr(part.inverse),)
    return part.name, sorted(part.arguments.items()), *named, *formula, *inverse


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
