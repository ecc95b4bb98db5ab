"""One cell of a study: a model trained, every curvature evaluated, and what the study's report shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvlang.evaluation.experiment import Clock, Outcome, experiment
from curvlang.evaluation.fidelity import scores_at
from curvlang.evaluation.named_task import trained
from curvlang.evaluation.preflight import check
from curvlang.evaluation.question import Question, Run
from curvlang.evaluation.statistics.datamodel import datamodel_ceiling
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.study.attributed import Attribution, attributions
from curvlang.evaluation.study.spectra import spectra
from curvlang.evaluation.study.study_result import Cell
from curvlang.language.chain import Curvature, StudyCell, TaskSpec
from curvlang.language.sums import weighted_chains
from curvlang.models.data.images import pictures
from curvlang.models.task import Task
from curvlang.runtime.prepare import model_flops, prepare

Values = dict[str, NDArray[np.floating[Any]]]
"""Resampled LDS of inverse K: `both-K` and `subsets-K` `[methods, settings, B]`, `queries-K`.

What each fold adds to it: `both-folds-K` and `subsets-folds-K` `[methods, settings, B, F, G]` in
half precision, `sample-folds-K` `[methods, settings, F, Q]`.
"""


def run_cell(question: Question, cell: StudyCell, run: Run) -> tuple[Cell, Values]:
    """Train the cell's model, evaluate every curvature of the study, and keep what its report shows.

    Args:
        question: What the study compares.
        cell: One of its cells.
        run: How, with the seed of the model and the protocol of the cell.

    Raises:
        SpecError: Where a curvature does not fit the model, or training diverges.
    """
    clock, fresh = Clock(), run.fresh(cell.task)
    plan = check(question, fresh, run)
    with clock("training"):
        base = trained(fresh, run.seed, run.progress)
    found = experiment(question, base, replace(run, folded=True), plan)
    with clock("datamodel"):
        additive = _additive(found)
    with clock("cost"):
        flops = {c.name: fit_flops(c, found.bench.task) for c in question.curvatures}
    truth = found.truth
    kept = Cell(
        dict(cell.values),
        run.seed,
        found.results,
        additive,
        flops,
        {name: round(x, 3) for name, x in (clock.times | found.times).items()},
        0 if truth is None else truth.trained,
        0 if truth is None else truth.reused,
        found.measures,
        spectra(found.bench.stages) if question.inverses else (),
        _attributions(found, cell.task),
    )
    return kept, _resampled(found)


def check_cell(question: Question, cell: StudyCell, run: Run) -> None:
    """Refuse a cell that cannot be evaluated, before anything is trained."""
    check(question, run.fresh(cell.task), run)


def fit_flops(curvature: Curvature, task: Task) -> int:
    """Floating-point operations of fitting a curvature alone, the model's own passes included."""
    chains = [chain for _, chain in weighted_chains(curvature)]
    prepared = prepare(chains, task, last=True)
    own = sum(f.flops for p in prepared.plans for b in p.blocks for f in b.passes)
    return own + sum(model_flops(prepared, task).values())


def _additive(found: Outcome) -> Interval | None:
    """The datamodel ceiling; None without retrained models."""
    truth, protocol = found.truth, found.protocol
    if truth is None or protocol is None:
        return None
    outcome = truth.outcome[:, :, : protocol.queries]
    return datamodel_ceiling(truth.kept, outcome, bootstrap=protocol.bootstrap, seed=protocol.seed)


def _attributions(found: Outcome, spec: TaskSpec) -> tuple[Attribution, ...]:
    """By the curvature with the largest LDS under the first inverse; none without images or texts."""
    column, stages, task = found.columns[0], found.bench.stages, found.bench.task
    seen = pictures(spec, task)
    if (seen is None and task.text_of is None) or column.judgement is None:
        return ()
    judged = [column.judgement.score(k, stage.label) for k, stage in enumerate(stages)]
    known = [(score.estimate, -k) for k, score in enumerate(judged) if score is not None]
    if not known:
        return ()
    best = -max(known)[1]
    score, scores = judged[best], scores_at(column.cells, column.shared)[best]
    assert score is not None
    assert scores is not None
    quality = score.within.queries.float().cpu().numpy()
    damping = column.settings[column.shared].damping
    return attributions(score.name, damping, scores, quality, task, seen)


def _resampled(found: Outcome) -> Values:
    """`both`, `subsets` `[methods, settings, B]` and `queries` `[…, Q]` of every inverse; NaN without scores."""
    values: Values = {}
    for number, column in enumerate(found.columns):
        if column.judgement is not None:
            judged = column.judgement
            values |= _stacked(judged.samples, _SAMPLES, number)
            values |= _stacked(judged.folds, _FOLDS, number)
    return values


Fields = Mapping[str, tuple[str, type[np.floating[Any]]]]
_SAMPLES: Fields = {name: (name, np.float32) for name in ("both", "subsets", "queries")}
_FOLDS: Fields = {
    "both": ("both-folds", np.float16),
    "subsets": ("subsets-folds", np.float16),
    "sample": ("sample-folds", np.float32),
}
"""Fields of a row's entries, the names of their arrays, and their precision."""


def _stacked(
    entries: Sequence[Sequence[object | None]],
    fields: Fields,
    number: int,
) -> Values:
    known = next((p for row in entries for p in row if p is not None), None)
    if known is None:
        return {}
    found: Values = {}
    for field, (name, precision) in fields.items():
        blank = np.full(getattr(known, field).shape, np.nan, precision)
        rows = [
            [blank if p is None else getattr(p, field).cpu().numpy().astype(precision) for p in row]
            for row in entries
        ]
        found[f"{name}-{number}"] = np.asarray(rows, dtype=precision)
    return found
