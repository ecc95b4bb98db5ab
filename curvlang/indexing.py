"""Indexes: what is kept of the training examples, written once; later queries are scored against it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from curvlang.attribution.formulas.formula_scores import plain_formula, program_of
from curvlang.attribution.formulas.surroundings import check_surroundings
from curvlang.attribution.indexed.contents import Contents
from curvlang.attribution.indexed.gradient_index import GradientIndex
from curvlang.attribution.indexed.sources import check_indexed
from curvlang.attribution.indexed.writing import check_kept, write_index
from curvlang.costs.planned_scores import predicted_index
from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.plain_arguments import validated
from curvlang.facade import as_spec, named_task
from curvlang.fits import check_store, claims_of, kept_fit, trained_in
from curvlang.language import declared, score_text
from curvlang.language.chain import Curvature, ScoreFormula, Spec
from curvlang.language.selection import chains_of, chosen, evaluation_of
from curvlang.language.task_sources import TaskSource
from curvlang.models.execution.precision import PrecisionLike
from curvlang.models.execution.torch_state import settled
from curvlang.models.task import Task, check_task
from curvlang.models.task_products import products_of_passes
from curvlang.runtime.limits.disk import require_space
from curvlang.runtime.limits.memory import Memory, limited
from curvlang.runtime.limits.planned import planned
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.others import without_ignored
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.setup import Setup
from curvlang.storage.fits.store import FitStore


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IndexReport(Display):
    """An index in its store; printable.

    Args:
        index: It.
        contents: What it says of itself.
        name: The curvature's.
        task: The training examples.
    """

    index: GradientIndex
    contents: Contents
    name: str
    task: Task

    @property
    def bytes(self) -> int:
        """Of the index on the disk."""
        return self.index.store.index(self.contents.key).bytes()

    def header(self) -> Iterator[str]:
        """What is kept of what, a line each."""
        yield f"curvature: {self.name}, {self.index.structure}"
        yield f"task: {self.task!r}"
        yield f"parameters: {self.task.origin.text}"
        yield f"index: {self.contents.described()}"
        yield f"kept in {self.index.store.path} ({size(self.bytes)} on the disk)"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "curvature": self.name,
            "task": repr(self.task),
            "parameters": self.task.origin.text,
            "index": self.contents.words,
            "examples": self.contents.total,
            "chunks": self.contents.cut.count,
            "kept_in": self.contents.stored,
            "rounding": self.contents.rounding,
            "error_of_scores": self.contents.error,
            "store": str(self.index.store.path),
            "bytes": self.bytes,
        }

    def _summary(self) -> str:
        return f"of {self.name}: {self.contents.described()}, in {self.index.store.path}"

    def __str__(self) -> str:
        return "\n".join(self.header())


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IndexRequest(Display):
    """An index that can be written: what could be refused has been checked.

    Args:
        spec: The spec.
        curvature: Its curvature.
        formula: The score that it is for.
        task: The training examples; the model is trained first where it was described.
        setup: Device, precision, memory, seed and store.
        keep: The precision that numbers are kept in; as they are computed where not given.
    """

    spec: Spec
    curvature: Curvature
    formula: ScoreFormula
    task: Task
    setup: Setup
    keep: str | None = None

    def _summary(self) -> str:
        return f"of {self.curvature.name or 'curvature'} on {self.task!r}"

    @settled
    def run(self, progress: ProgressOption = True) -> IndexReport:
        """Train the task's model where it was described, fit the curvature, and write the index.

        Args:
            progress: Shown on standard error; `False` for nothing, or a function that is called as
                work proceeds.

        Raises:
            Interrupted: By Ctrl-C; what is written so far is kept.
        """
        with shown(progress, "cv.index", store=self.setup.store) as told:
            return self._run(told)

    def _run(self, progress: Progress | None) -> IndexReport:
        setup, store = self.setup, self.setup.store
        assert store is not None
        task = trained_in(setup, self.task, progress).to(precision=setup.policy)
        with limited(setup.memory), products_of_passes(task):
            op = kept_fit(self.spec, self.curvature, task, setup, progress)
            keep = None if self.keep is None else getattr(torch, self.keep)
            contents = task.retried(
                lambda: write_index(op, FitStore(store), self.formula, task, keep, progress)
            )
        name = self.curvature.name or "curvature"
        return IndexReport(GradientIndex(store), contents, name, task)


@settled
@validated
def index_request(
    spec: Spec | str | Path,
    task: Task | TaskSource | None = None,
    setup: Setup | None = None,
    *,
    curvature: str | None = None,
    score: str | None = None,
    keep: str | None = None,
) -> IndexRequest:
    """Ask for an index; what the score, the layers, the memory or the store rule out is refused.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: A trained model with its data; or what replaces lines of the spec's own task, whose
            model is then trained.
        setup: Device, precision, memory and seed, and the store.
        curvature: Which of the spec's curvatures; the one evaluated last where not given.
        score: The score that queries will be scored by; that of the spec's evaluation where not given.
        keep: The precision that numbers are kept in: `bfloat16`, `float16` or `float32`, each with a power
            of two for every example; as they are computed where not given.

    Raises:
        SpecError: E0762 for a score that needs whole gradients of training examples; E0765 for an unknown
            precision; E0835 to E0838 for a store of something else, or one that cannot be used.
        MachineError: E0801 for a fit that does not fit into memory, E0841 for one that the disk has no
            space for.
    """
    whole, setup = as_spec(spec), setup or Setup()
    found = chosen(whole, curvature)
    check_kept(keep)
    if not isinstance(task, Task):
        _, task = named_task(whole, found, task, setup)
    check_store(setup, found, task)
    formula = formula_of_index(whole, found, score)
    with limited(setup.memory), results_on_disk(setup.store is not None):
        seen = without_ignored(chains_of(found), task.to(precision=setup.policy))
        (operator,) = planned((found,), seen)
        check_indexed(formula, operator)
        check_surroundings(formula, program_of(formula), task)
        index = partial(_bytes, formula, seen, keep)
        require_space(*claims_of(setup, chains_of(found), task, index))
    return IndexRequest(whole, found, formula, task, setup, keep)


def _bytes(formula: ScoreFormula, task: Task, keep: str | None, prepared: Preparation) -> int:
    """Of the index of a score on the disk."""
    told = predicted_index(formula, prepared, task)
    return 0 if told is None else told.bytes(getattr(torch, keep or "float64"))


def formula_of_index(spec: Spec, curvature: Curvature, score: str | None) -> ScoreFormula:
    """The score of an index: the one that is named, or that of the spec's evaluation, or plain influence."""
    if score is not None:
        return score_text(score, "<score>", declared(spec))
    said = evaluation_of(spec, curvature)
    return plain_formula() if said is None or said.score is None else said.score


@settled
@validated
def index(
    spec: Spec | str | Path,
    task: Task,
    *,
    store: str | os.PathLike[str],
    curvature: str | None = None,
    score: str | None = None,
    keep: str | None = None,
    seed: int = 0,
    precision: PrecisionLike | None = None,
    memory: Memory = None,
    progress: ProgressOption = True,
) -> GradientIndex:
    """Write what scores need of the training examples to a store, once; later queries are scored against it.

    Of a curvature that is zero outside some coordinates (`logra`) these are gradients in the coordinates, of a
    score of projected gradients (`trak`) the projections. What an earlier run has written is kept.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: A trained model with its training examples.
        store: A folder, as for `fit`, whose curvature lies there too.
        curvature: Which of the spec's curvatures; the one evaluated last where not given.
        score: The score that queries will be scored by; that of the spec's evaluation where not given.
        keep: The precision that numbers are kept in: `bfloat16`, `float16` or `float32`; as they are computed
            where not given.
        seed: Of sampled labels.
        precision: As for `fit`.
        memory: What the work may hold; what is free where not given.
        progress: Shown on standard error; `False` for nothing, or a function that is called as work proceeds.

    Returns:
        The curvature with its index: `cv.influence(index, task)`, `cv.top_examples(index, task)`.

    Raises:
        SpecError: E0762 for a score that needs whole gradients of training examples, E0765 for an index in
            another precision, E0835 to E0838 for a store of something else.
        MachineError: E0801, E0802 and E0841 where memory or disk are too small.
    """
    check_task(task)
    own = precision or task.policy
    setup = Setup(
        task.device, task.dtype if own is None else None, memory, seed, Path(store), precision=own
    )
    asked = index_request(spec, task, setup, curvature=curvature, score=score, keep=keep)
    return asked.run(progress).index


def load_index(path: str | os.PathLike[str]) -> GradientIndex:
    """An index that was written before; nothing of it is read before it is asked for.

    Args:
        path: The store.

    Raises:
        SpecError: E0763 for a store without an index, E0836 to E0838 for one that cannot be read.
    """
    return GradientIndex(Path(path))
