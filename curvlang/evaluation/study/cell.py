"""One cell of a study: a model trained, every curvature fitted at once, scored under every inverse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from curvlang.attribution import curvature_free as baselines
from curvlang.evaluation import measures
from curvlang.evaluation.errors import Estimate
from curvlang.evaluation.evaluate import Clock, described, plain_shared, product_notes
from curvlang.evaluation.fidelity import (
    Fidelity,
    Scoring,
    Setting,
    forward_errors,
    measure,
    scores_at,
    settings,
    without_inverse,
)
from curvlang.evaluation.ground_truth import GroundTruth, ground_truth
from curvlang.evaluation.judge import Judged, judge
from curvlang.evaluation.protocol import LDS, SWEEP
from curvlang.evaluation.result import Point, Result, Step
from curvlang.evaluation.statistics.comparison import Resampled
from curvlang.evaluation.statistics.datamodel import datamodel_ceiling
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.steps import steps_of
from curvlang.evaluation.study.attributed import Attributed, attributed
from curvlang.evaluation.study.result import CellFound
from curvlang.evaluation.study.spectra import Spectrum, spectra
from curvlang.evaluation.summary import protocol_as_run, summary
from curvlang.language import curvature_named
from curvlang.language.chain import Chain, Curvature, InverseUse, Study, StudyCell, TaskSpec
from curvlang.language.sums import weighted_chains
from curvlang.models.builtin import task_from
from curvlang.models.data.images import pictures
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.combine import fit_combination
from curvlang.runtime.fit import FittedStage, Progress, fit_chains
from curvlang.runtime.inverse import unstructured
from curvlang.runtime.others import without_ignored
from curvlang.runtime.prepare import model_flops, prepare
from curvlang.storage.cache import Cache
from curvlang.training.baseline import train_baseline
from curvlang.version import VERSION

REFERENCE = "hessian"
Shown = tuple[tuple[Spectrum, ...], tuple[Attributed, ...]]
Values = dict[str, NDArray[np.float32]]
"""Resampled LDS of inverse K: `both-K` and `subsets-K` `[methods, settings, B]`, `queries-K`."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and in which precision a study runs, and whether functions that it names may be called."""

    device: torch.device
    dtype: torch.dtype
    cache: Cache | None = None
    version: str = VERSION
    allow_python: bool = False

    def fresh(self, spec: TaskSpec, seed: int) -> Task:
        """The task with its model as the seed or a file of weights makes it."""
        return task_from(spec, seed=seed, device=self.device, allow_python=self.allow_python)


def run_cell(
    study: Study,
    cell: StudyCell,
    seed: int,
    protocol: LDS | None,
    machine: Machine,
    progress: Progress | None = None,
) -> tuple[CellFound, Values]:
    """Train the cell's model, fit, retrain the subsets (or read them from the cache), and score.

    Raises:
        SpecError: Where a curvature does not fit the model, or training diverges.
    """
    clock = Clock()
    with clock("training"):
        fresh = machine.fresh(cell.task, seed)
        baselines.check_baselines(study.baselines, fresh, fresh.origin.trained)
        base = fresh if fresh.origin.trained else train_baseline(fresh, seed, progress)
    task = without_ignored(_chains(study), base.to(dtype=machine.dtype))
    with clock("fit"):
        stages, goal = fit_together(study.curvatures, task, seed, progress)
    truth = None
    if protocol is not None:
        with clock("ground truth"):
            truth = ground_truth(base, protocol, seed, cache=machine.cache, progress=progress)
    if truth is not None and protocol is not None:
        protocol = replace(protocol, subsets=len(truth.kept))
    with clock("scores and LDS"):
        found = _Scoring(study, base, task, cell, stages, goal, protocol, truth, seed, progress)
        results, values, shown = found.run()
    with clock("measures"):
        measures = _measures(study, base, task, stages, seed)
    additive = None
    if truth is not None and protocol is not None:
        with clock("datamodel"):
            additive = datamodel_ceiling(
                truth.kept,
                truth.outcome[:, :, : protocol.queries],
                bootstrap=protocol.bootstrap,
                seed=protocol.seed,
            )
    with clock("cost"):
        flops = {c.name: fit_flops(c, task) for c in study.curvatures}
    trained, reused = (0, 0) if truth is None else (truth.trained, truth.reused)
    seconds = {name: round(x, 3) for name, x in clock.times.items()}
    own, queries = shown
    return (
        CellFound(
            dict(cell.values), seed, results, additive, flops, seconds, trained, reused, measures,
            own, queries,
        ),
        values,
    )  # fmt: skip


def _chains(study: Study) -> list[Chain]:
    """Every chain of a study: all are curvatures of the same parameters."""
    own = [b.curvature for b in study.baselines if b.curvature is not None]
    return [chain for c in (*study.curvatures, *own) for _, chain in weighted_chains(c)]


def fit_together(
    curvatures: Sequence[Curvature], task: Task, seed: int, progress: Progress | None
) -> tuple[list[FittedStage], Operator]:
    """Every curvature and the reference, chains in one shared run over the data.

    Dense matrices are decomposed once here, for all inverses and λ of the study.
    """
    wanted = list(curvatures)
    if REFERENCE not in [c.name for c in wanted]:
        wanted.append(curvature_named(REFERENCE))
    chains = [c for c in wanted if isinstance(c, Chain)]
    fitted = dict(
        zip(
            [c.name for c in chains],
            [s[-1] for s in fit_chains(chains, task, seed=seed, last=True, progress=progress)],
            strict=True,
        )
    )
    for curvature in wanted:
        if not isinstance(curvature, Chain):
            fitted[curvature.name] = fit_combination(curvature, task, seed=seed, progress=progress)
    stages = [replace(fitted[c.name], label=c.name) for c in curvatures]
    return stages, fitted[REFERENCE].operator


def fit_flops(curvature: Curvature, task: Task) -> int:
    """Floating-point operations of fitting a curvature alone, the model's own passes included."""
    chains = [chain for _, chain in weighted_chains(curvature)]
    prepared = prepare(chains, task, last=True)
    own = sum(b.count * f.flops for p in prepared.plans for b in p.blocks for f in b.passes)
    return own + sum(model_flops(prepared, task).values())


@dataclass(slots=True)
class _Scoring:
    study: Study
    base: Task
    task: Task
    cell: StudyCell
    stages: Sequence[FittedStage]
    goal: Operator
    protocol: LDS | None
    truth: GroundTruth | None
    seed: int
    progress: Progress | None

    def run(self) -> tuple[tuple[Result, ...], Values, Shown]:
        """A result for every inverse, with the resampled LDS behind its intervals; what is shown."""
        plain = self._scoring(None)
        forwards = forward_errors(self.stages, self.goal, plain)
        ready, goal = _decomposed(self.stages, self.goal)
        given = baselines.Setting(self.base, self.task, plain.rows, self.seed)
        others = [baselines.baseline_scores(b, given) for b in self.study.baselines]
        results: list[Result] = []
        values: Values = {}
        queries: tuple[Attributed, ...] = ()
        for k, inverse in enumerate(self.study.inverses or (None,)):
            chosen = settings(inverse, self.study.damping or SWEEP)
            scoring = self._scoring(inverse)
            measured = measure(ready, goal, scoring)
            # A baseline knows no inverse: its scores are the same at every setting.
            for x in others:
                measured.append([without_inverse(x, scoring.kept)] * len(chosen))
            judged = judge(measured, self.truth, self.protocol, plain.rows, self.progress)
            results.append(self._result(inverse, measured, judged, forwards, plain.rows))
            if judged is not None:
                values |= _stacked(judged.parts, k)
                queries = queries or self._attributed(measured, judged, chosen)
        return tuple(results), values, (spectra(ready), queries)

    def _scoring(self, inverse: InverseUse | None) -> Scoring:
        chosen = settings(inverse, self.study.damping or SWEEP)
        return Scoring(
            task=self.task,
            cost=self.task.loss,
            chosen=chosen,
            queries=None if self.protocol is None else self.protocol.queries,
            seed=self.seed,
            kept=None if self.truth is None else self.truth.kept,
            shared=None if self.truth is not None else plain_shared(chosen, self.goal),
            progress=self.progress,
        )

    def _attributed(
        self, measured: list[list[Fidelity]], judged: Judged, chosen: Sequence[Setting]
    ) -> tuple[Attributed, ...]:
        """By the curvature with the largest LDS at the shared setting; none without images."""
        seen = pictures(self.cell.task, self.task)
        at = judged.shared
        rows = range(len(self.stages))
        known = [(x, -k) for k in rows if (x := judged.estimates[k][at]) is not None]
        if seen is None or not known:
            return ()
        best = -max(known)[1]
        part, scores = judged.parts[best][at], scores_at(measured, at)[best]
        assert part is not None
        assert scores is not None
        quality = part.queries.float().cpu().numpy()
        label = self.stages[best].label
        return attributed(label, chosen[at].damping, scores, quality, self.task, seen)

    def _result(
        self,
        inverse: InverseUse | None,
        measured: list[list[Fidelity]],
        judged: Judged | None,
        forwards: list[Estimate | None],
        queries: int,
    ) -> Result:
        chosen = settings(inverse, self.study.damping or SWEEP)
        shared = judged.shared if judged else plain_shared(chosen, self.goal)
        path = len(self.study.path)
        count = len(self.stages)
        steps = [
            *steps_of(self.stages, chosen, measured[:count], forwards, judged, shared, path),
            *self._baselines(chosen, judged, shared),
        ]
        return Result(
            name=self.study.name,
            version=VERSION,
            reference=REFERENCE,
            task=summary(self.task, self.cell.task.arguments),
            inverse=described(inverse, None),
            sweep=tuple(s.damping for s in chosen if s.damping is not None),
            protocol=protocol_as_run(self.protocol, queries),
            ceiling=judged.ceiling if judged else None,
            steps=tuple(steps),
            notes=product_notes(self.stages),
        )

    def _baselines(
        self, chosen: Sequence[Setting], judged: Judged | None, shared: int
    ) -> Iterator[Step]:
        """A row for each baseline: its LDS alone."""
        for k, part in enumerate(self.study.baselines, len(self.stages)):
            assert judged is not None
            points = tuple(
                Point(x.damping, lds=judged.intervals[k][at], note=judged.constant[k][at])
                for at, x in enumerate(chosen)
            )
            yield Step(part.name, part.name, "baseline", {}, 0, 0, None, None, points, 0, shared)


def _measures(
    study: Study, base: Task, task: Task, stages: Sequence[FittedStage], seed: int
) -> dict[str, tuple[tuple[tuple[Interval | None, ...], ...], ...]]:
    """Every measure of the study: `[inverse][curvature][setting]`."""

    def fit(other: Task) -> Sequence[FittedStage]:
        return _decomposed(*fit_together(study.curvatures, other, seed, None))[0]

    if not study.measures:
        return {}
    ready = _decomposed(stages, stages[0].operator)[0]
    given = [
        measures.Given(base, task, ready, fit, settings(inverse, study.damping or SWEEP), seed)
        for inverse in study.inverses or (None,)
    ]
    return {
        part.name: tuple(
            tuple(tuple(row) for row in measures.measure_by_name(part.name, part.arguments, x))
            for x in given
        )
        for part in study.measures
    }


def _decomposed(
    stages: Sequence[FittedStage], goal: Operator
) -> tuple[list[FittedStage], Operator]:
    """Matrices without structure as Q diag(s) Qᵀ; one that is the reference stays it."""
    made: dict[int, Operator] = {}

    def form(operator: Operator) -> Operator:
        if not (operator.spectrum_known and unstructured(operator)):
            return operator
        if id(operator) not in made:
            made[id(operator)] = operator.spectral_form()
        return made[id(operator)]

    return [replace(s, operator=form(s.operator)) for s in stages], form(goal)


def _stacked(parts: list[list[Resampled | None]], number: int) -> Values:
    """`both`, `subsets` `[methods, settings, B]` and `queries` `[…, Q]`; NaN without scores."""
    known = next((p for row in parts for p in row if p is not None), None)
    if known is None:
        return {}
    found = {}
    for name in ("both", "subsets", "queries"):
        blank = np.full(len(getattr(known, name)), np.nan, np.float32)
        rows = [
            [blank if p is None else getattr(p, name).float().cpu().numpy() for p in row]
            for row in parts
        ]
        found[f"{name}-{number}"] = np.asarray(rows, dtype=np.float32)
    return found
