"""Scores with what they mean: computed from a spec, shown with their examples, written to a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    check_formula,
    check_inverse_used,
    plain_formula,
    program_of,
)
from curvlang.attribution.formulas.surroundings import check_surroundings
from curvlang.attribution.indexed.contents import Contents
from curvlang.attribution.indexed.gradient_index import check_kept, no_part
from curvlang.attribution.influence import Options, influence, self_influence
from curvlang.attribution.inverses import inverted
from curvlang.attribution.scorer import layer_count, require_scores
from curvlang.attribution.streams.by_token import TokenScoring
from curvlang.attribution.streams.fitting import score_bytes
from curvlang.attribution.streams.request import Request, check_blocks
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import validated
from curvlang.facade import as_spec, fit, fitted_as_said, named_task
from curvlang.fits import check_store, claims_of, trained_in
from curvlang.indexing import load_index
from curvlang.language.chain import Curvature, ScoreFormula, Spec, TaskSpec
from curvlang.language.selection import chains_of, chosen, evaluation_of
from curvlang.language.task_sources import TaskSource
from curvlang.models.data.characters import spelt
from curvlang.models.data.images import pictures
from curvlang.models.execution.precision import narrow_matrices
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.metric import query_metric
from curvlang.models.task import Task
from curvlang.models.task_products import products_of_passes
from curvlang.models.tracing.per_position import position_count
from curvlang.operators import ExampleMean, Operator
from curvlang.operators.spectrum import decomposed_in
from curvlang.precision_report import PrecisionErrors, measured_errors
from curvlang.reporting.examples import InputTexts, images, texts
from curvlang.runtime.fit import FittedStage
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.disk import Claim, require_space
from curvlang.runtime.limits.memory import limited, require
from curvlang.runtime.limits.planned import planned, planned_solver
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.others import without_ignored
from curvlang.runtime.processes.distributed import world
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.setup import Setup
from curvlang.score_notes import NOTED, formula_notes, noted, notes_of
from curvlang.score_report import ScoreReport, StoredScores
from curvlang.score_targets import (
    ScoreFile,
    Target,
    finished_scores,
    score_content,
    scored_by_formula,
    stored_arrays,
    written,
)
from curvlang.score_words import Scoring
from curvlang.storage.fits.store import unusable_store
from curvlang.storage.score_address import address_of, is_remote
from curvlang.storage.score_file import check_score_file, check_streamed
from curvlang.storage.score_layout import is_store
from curvlang.storage.score_store import ScoreStore, check_content, missing_bytes


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoreRequest(Display):
    """A request for scores that can be computed: what could be refused has been checked.

    Args:
        spec: The spec.
        curvature: Its curvature.
        task: Queries and training examples.
        scoring: Which scores.
        setup: Device, precision, memory and seed.
        described: The task as a spec writes it; None where it was given as such.
        out: Where scores are written while they are computed, and never held whole; None where they
            are held.
        formula: What the scores are; None for plain influence.
        index: Whether queries are scored against the index in the store.
    """

    spec: Spec
    curvature: Curvature
    task: Task
    scoring: Scoring
    setup: Setup
    described: TaskSpec | None
    out: str | None = None
    formula: ScoreFormula | None = None
    index: bool = False

    def _summary(self) -> str:
        return f"of {self.curvature.name or 'curvature'} on {self.task!r}"

    @property
    def rows(self) -> int:
        """Queries, or groups of them."""
        labels = self.scoring.groups(self.task)
        return self.task.Q if labels is None else len(labels[1])

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the scores."""
        if self.formula is not None and not program_of(self.formula).pairs:
            return ("train",)
        return self.scoring.axes

    @settled
    def run(self, progress: ProgressOption = True) -> ScoreReport:
        """Train the task's model where it was described, fit the curvature, and score.

        With a store whose scores are all there nothing is computed.

        Args:
            progress: Shown on standard error; `False` for nothing, or a function that is called as
                work proceeds.
        """
        with shown(progress, "cv.score_request") as told:
            return self._run(told)

    def _run(self, progress: Progress | None) -> ScoreReport:
        content: dict[str, str] = {}
        if self.out is not None and is_store(self.out):
            content = self.content()
            store = finished_scores(self.out, content)
            if store is not None:
                return self._kept(store)
        seed = self.setup.seed
        task = self.task
        if self.described is not None:
            task = trained_in(self.setup, task, progress)
        base, task = task, task.to(precision=self.setup.policy)
        with limited(self.setup.memory):
            op = fit(
                self.spec,
                task,
                curvature=self.curvature.name or None,
                seed=seed,
                store=self.setup.store,
                progress=progress,
            )
            if self.index:
                op = load_index(self._place)
            with warnings.catch_warnings(record=True) as said:
                for category in NOTED:
                    warnings.simplefilter("always", category)
                with decomposed_in(narrow_matrices(task.policy)), products_of_passes(task):
                    scores = self._scores(op, task, content, progress)
            errors = self._errors(base)
        notes = self._notes(op, task) | noted(said)
        if errors is not None:
            notes["precision"] = "; ".join(filter(None, (str(errors), notes.get("precision"))))
        for array in scores.arrays.values():
            if isinstance(array, StoredScores) and world().first:
                array.store.note(notes)
                break
        return replace(self._report(scores, notes, task), errors=errors)

    @property
    def _place(self) -> Path:
        """The store with the index."""
        assert self.setup.store is not None
        return self.setup.store

    def kept(self) -> Contents | None:
        """What the index keeps for these scores; None where they are taken without one.

        Raises:
            SpecError: E0763 where the index is of other scores, E0836 to E0838 where it cannot be read.
        """
        if not self.index:
            return None
        formula = self.formula or plain_formula()
        return (
            load_index(self._place).chunks(formula, program_of(formula), self.task.device).contents
        )

    def _errors(self, base: Task) -> PrecisionErrors | None:
        """What the precision changes, measured on a few examples; None where it is float64."""
        if self.setup.policy.exact:
            return None
        plain = Scoring(
            self.scoring.metric,
            self.scoring.damping,
            self.scoring.inverse,
            own=self.scoring.own,
            score=self.scoring.score,
        )

        def fitted(some: Task) -> FittedOperator:
            name, seed = self.curvature.name or None, self.setup.seed
            return fit(self.spec, some, curvature=name, seed=seed, progress=False)

        def scored(op: FittedOperator, some: Task) -> Tensor:
            with decomposed_in(narrow_matrices(some.policy)):
                return _arrays(plain, op, some, None)["scores"]

        seen = without_ignored(chains_of(self.curvature), base)
        return measured_errors(seen, self.setup.policy, fitted, scored)

    def content(self) -> dict[str, str]:
        """What decides the numbers: a store of others is refused."""
        found = score_content(self.spec, self.curvature, self.task, self.scoring, self.setup)
        kept = self.kept()
        return found if kept is None else found | {"index": f"in {kept.stored}"}

    def _scores(
        self, op: FittedOperator, task: Task, content: dict[str, str], progress: Progress | None
    ) -> ScoreFile:
        """The scores, in memory or on the disk."""
        if self.out is None:
            return ScoreFile(_arrays(self.scoring, op, task, progress), 0, 0)
        labels = self.scoring.groups(task)
        named = {} if labels is None else {"group": tuple(labels[1])}
        target = Target(self.out, content, self.axes, named)
        return written(target, self.scoring, op, task, progress)

    def _notes(self, op: FittedOperator, task: Task) -> dict[str, str]:
        asked = query_metric(self.scoring.metric, task.loss)
        name = self.curvature.name or "curvature"
        notes = notes_of(self.scoring, op, name, task, asked)
        kept = self.kept()
        if kept is not None:
            notes["index"] = kept.described()
        return notes if self.formula is None else notes | formula_notes(self.formula)

    def _kept(self, store: ScoreStore) -> ScoreReport:
        """The report of a store in which all scores are."""
        count = len(store.layout.all)
        return self._report(ScoreFile(stored_arrays(store), count, count), store.notes, self.task)

    def _report(self, scores: ScoreFile, notes: dict[str, str], task: Task) -> ScoreReport:
        labels = self.scoring.groups(task)
        groups = None if labels is None else tuple(labels[1])
        looks = None if self.described is None else _looks(self.described, task)
        sign = query_metric(self.scoring.metric, task.loss).sign
        offsets = _offsets(scores.arrays, task) if self.scoring.per_token else None
        stored = self.out is not None and is_store(self.out)
        return ScoreReport(
            scores.arrays,
            self.axes,
            notes,
            groups,
            task,
            sign,
            looks,
            self.out,
            (scores.found, scores.chunks) if stored else None,
            offsets,
            None if self.setup.memory is None else scores.predicted,
        )


@settled
@validated
def score_request(
    spec: Spec | str | Path,
    task: Task | TaskSource | None = None,
    scoring: Scoring | None = None,
    setup: Setup | None = None,
    *,
    curvature: str | None = None,
    out: str | os.PathLike[str] | None = None,
    index: bool = False,
) -> ScoreRequest:
    """Ask for scores; what the layers, the memory, the metric or the groups rule out is refused.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: A trained model with its data; or what replaces lines of the spec's own task, whose
            model is then trained.
        scoring: Which scores; the plain ones where not given.
        setup: Device, precision, memory and seed.
        curvature: Which of the spec's curvatures; the one evaluated last where not given.
        out: A zarr store (`scores.zarr`, `s3://bucket/scores.zarr`) or an npy file that scores are
            written to while they are computed, so that they may be larger than memory. A store goes
            on where a run was stopped.
        index: Score against the index in the store of `setup`: no gradient of a training example is taken.

    Raises:
        SpecError: E0763 where the store has no index for these scores, E0764 for scores that none has; with every problem of the spec and the task; E0590 to E0592 for a metric or
            positions that the task does not have; E0583 to E0585 and E0880 to E0884 for an `out`
            that cannot be written to, or a store of other scores.
        MachineError: E0801 for scores that do not fit into memory.
    """
    whole, scoring, setup = as_spec(spec), scoring or Scoring(), setup or Setup()
    found = chosen(whole, curvature)
    described = None
    if not isinstance(task, Task):
        described, task = named_task(whole, found, task, setup)
    check_store(setup, found, task)
    with limited(setup.memory), results_on_disk(setup.store is not None):
        inverse = _check_inverse(whole, found, task.to(precision=setup.policy), scoring)
        query_metric(scoring.metric, task.loss)
        formula = None if scoring.own else scored_by_formula(whole, found, scoring)
        if formula is not None:
            _check_formula(formula, scoring)
            check_surroundings(formula, program_of(formula), task)
        to = _target(out, scoring)
        request = ScoreRequest(whole, found, task, scoring, setup, described, to, formula, index)
        _check_index(request)
        _check_size(request, inverse)
        fit = claims_of(setup, chains_of(found), task)
    if request.out is not None and is_store(request.out):
        check_content(request.out, request.content())
    require_space(*fit, *_claims(request, inverse))
    return request


def _claims(request: ScoreRequest, inverse: Operator) -> tuple[Claim, ...]:
    """What scores are going to take of their disk."""
    task, scoring, out = request.task, request.scoring, request.out
    if out is None or is_remote(out):
        return ()
    needed = missing_bytes(out) if is_store(out) else None
    if needed is None:
        pairs = not scoring.own and ("query" in request.axes or "group" in request.axes)
        layers = layer_count(inverse, task) if scoring.per_layer else 1
        # Tokens that do not count take no space: how many count is known when they are scored.
        positions = position_count(task) if scoring.per_position else 1
        needed = 8 * (request.rows if pairs else 1) * layers * task.N * positions
    return (Claim(Path(out), needed, what="store" if is_store(out) else "file"),)


def _check_index(request: ScoreRequest) -> None:
    """Refuse scores that no index has, and an index that is not of these.

    Raises:
        SpecError: E0763, E0764, E0838.
    """
    if not request.index:
        return
    scoring = request.scoring
    if request.setup.store is None:
        raise unusable_store("scores from an index need its store", "`Setup(store=Path(DIR))`")
    if scoring.own:
        raise no_part("own")
    products = None if scoring.products is None else torch.bfloat16
    parts = scoring.per_layer, scoring.per_position, scoring.per_token
    check_kept(Request(*parts, products=products, compress=scoring.compress))
    request.kept()


def _check_formula(formula: ScoreFormula, scoring: Scoring) -> None:
    """Refuse what a formula does not have, or has no use for.

    Raises:
        SpecError: E0426.
    """
    products = None if scoring.products is None else torch.bfloat16
    parts = scoring.per_layer, scoring.per_position, scoring.per_token
    check_formula(formula, Request(*parts, products=products, compress=scoring.compress))
    check_inverse_used(formula, InverseRequest(scoring.damping, scoring.inverse))


def _target(out: str | os.PathLike[str] | None, scoring: Scoring) -> str | None:
    """Where scores are written as they come.

    Raises:
        SpecError: E0583 for a format that is written in one piece, else what cannot be written to.
    """
    if out is None:
        return None
    check_score_file(out, by_layer=scoring.per_layer, by_token=scoring.per_token)
    check_streamed(out)
    return os.fspath(out) if is_remote(out) else os.path.abspath(address_of(out))


def _check_size(request: ScoreRequest, inverse: Operator) -> None:
    """Refuse scores that do not fit into memory, whatever their computation takes beside them.

    Raises:
        SpecError: E0591 and E0592 for groups or positions that the task does not have.
        MachineError: E0801.
    """
    task, scoring = request.task, request.scoring
    positions = position_count(task) if scoring.per_position or scoring.per_token else 1
    layers = layer_count(inverse, task) if scoring.per_layer else 1
    if scoring.own or ("query" not in request.axes and "group" not in request.axes):
        return
    if request.out is None:
        require_scores(task, request.rows, layers * task.N * positions, gradients=False)
    else:
        rows = 1 if scoring.group is None else request.rows
        require(
            rows * score_bytes(task, layers * positions),
            task.device,
            f"scoring {'a query' if scoring.group is None else f'{rows} groups'} at a time",
        )


def _check_inverse(spec: Spec, curvature: Curvature, task: Task, scoring: Scoring) -> Operator:
    """Refuse a curvature that is not covered or does not fit into memory, and an inverse that it does not have.

    The inverse is tried on an operator of the planned structure, before anything is trained or fitted.
    """
    seen, said = without_ignored(chains_of(curvature), task), evaluation_of(spec, curvature)
    (operator,) = planned((curvature,), seen)
    by_example = ExampleMean(1, lambda _: operator, lambda: iter(()))
    stage = FittedStage(curvature.name, "", operator, {}, 0, curvature.span, by_example)
    solver = planned_solver(None if said is None else said.solver, seen)
    unfitted = fitted_as_said(spec, curvature, seen, stage, solver)
    found = inverted(unfitted, seen, damping=scoring.damping, inverse=scoring.inverse).operator
    check_blocks(
        found,
        Request(
            scoring.per_layer,
            scoring.per_position,
            scoring.per_token,
            products=scoring.kind(task.policy),
            compress=scoring.compress,
        ),
    )
    return found


def _offsets(arrays: Mapping[str, Tensor | StoredScores], task: Task) -> Tensor:
    """Where the tokens of every training example begin: as a store says, or the task."""
    for array in arrays.values():
        if isinstance(array, StoredScores) and array.store.offsets is not None:
            return torch.from_numpy(array.store.offsets)
    return TokenScoring(task).tokens.offsets


def _arrays(
    scoring: Scoring, op: FittedOperator, task: Task, progress: Progress | None
) -> dict[str, Tensor]:
    if scoring.own:
        own = self_influence(
            op, task, damping=scoring.damping, inverse=scoring.inverse, progress=progress
        )
        return {"scores": own}
    labels = scoring.groups(task)
    options: Options = {
        "metric": scoring.metric,
        "damping": scoring.damping,
        "inverse": scoring.inverse,
        "per_position": scoring.per_position,
        "groups": None if labels is None else labels[0],
        "reduce": scoring.reduce,
        "products": scoring.kind(task.policy),
        "compress": scoring.compress,
        "progress": progress,
        "score": scoring.score,
    }
    if scoring.per_token:
        return {"scores": influence(op, task, per_token=True, **options).scores}
    scores = influence(op, task, per_layer=scoring.per_layer, **options)
    return scores if isinstance(scores, dict) else {"scores": scores}


def _looks(described: TaskSpec, task: Task) -> InputTexts | None:
    """Images as images, text as text."""
    if described.data.name == "characters":
        return texts(task.train[0], task.query[0], spelt)
    seen = pictures(described, task)
    return None if seen is None else images(*seen)
