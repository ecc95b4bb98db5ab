"""Scores with what they mean: computed from a spec, shown with their examples, written to a file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvlang.attribution.groups import check_reduce, label_groups
from curvlang.attribution.influence import influence, self_influence
from curvlang.attribution.inverses import inverted
from curvlang.attribution.scorer import check_products, layer_count, no_use, require_scores
from curvlang.attribution.streams.stream import (
    CompressedQueries,
    ReducedPrecision,
    Request,
    check_blocks,
    check_share,
)
from curvlang.attribution.top import Neighbour, Top, largest, top
from curvlang.diagnostics.plain_arguments import validate_fields, validated
from curvlang.diagnostics.values import finite_number
from curvlang.facade import as_spec, fit, named_task
from curvlang.fits import check_store, trained_in
from curvlang.language import declared_inverses, default_inverse
from curvlang.language.chain import Curvature, Spec, TaskSpec
from curvlang.language.selection import chains_of, chosen, evaluation_of
from curvlang.language.task_sources import TaskSource
from curvlang.models.data.characters import spelt
from curvlang.models.data.images import pictures
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.metric import QueryMetric, query_metric
from curvlang.models.task import Task
from curvlang.models.tracing.per_position import position_count
from curvlang.operators import ExampleMean, Operator
from curvlang.operators.iterative.iteration import NotConverged
from curvlang.reporting.examples import InputTexts, images, show_largest, show_top, texts
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.memory import limited
from curvlang.runtime.limits.planned import planned, planned_solver
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.others import without_ignored
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.setup import Setup
from curvlang.storage.score_file import Scores, write_scores
from curvlang.version import VERSION

SHOWN = 3
"""Queries whose top examples are shown where none are named."""
NOTED = {
    ReducedPrecision: "precision",
    CompressedQueries: "precision",
    NotConverged: "solver",
}
"""Warnings that become notes of the scores, and under which word; others are shown as they come."""
WITH_QUERIES = (
    "metric",
    "per_layer",
    "per_position",
    "group",
    "reduce",
    "products",
    "compress",
)
"""Of a scoring, what is about queries, which self-influence has none of."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """Which scores: `score[q, n] = ∇m_qᵀ C⁻¹ ∇ℓ_n`, or a variant of it.

    Args:
        metric: The quantity m of the queries: `loss`, `margin` or `logit`.
        damping: λ of `(C + λI)⁻¹`; the spec's inverse where not given.
        inverse: An inverse as a spec writes it, in place of the spec's.
        per_layer: Scores of every layer; they add up to the total.
        per_position: Scores of every output position of the training examples.
        own: Every training example against itself alone (self-influence).
        group: Queries asked together: `label` (one group for each class) or `all`.
        reduce: `sum` or `mean` over a group.
        products: `bfloat16`: the precision of products with training examples.
        compress: Share of every query that may be left out for a lower rank.
    """

    metric: str = "loss"
    damping: float | None = None
    inverse: str | None = None
    per_layer: bool = False
    per_position: bool = False
    own: bool = False
    group: str | None = None
    reduce: str = "sum"
    products: str | None = None
    compress: float | None = None

    def __post_init__(self) -> None:
        """Refuse words that mean nothing here, and what would be ignored.

        Raises:
            SpecError: E0591 for groups, E0594 for products and low rank, E0595 for what
                self-influence has no use for.
        """
        validate_fields(self)
        if self.own:
            _check_alone(self)
        check_reduce(self.group, self.reduce)
        check_products(self.products)
        if self.compress is not None:
            check_share(finite_number(self.compress, "compress"))

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the scores."""
        if self.own:
            return ("train",)
        first = "query" if self.group is None else "group"
        return (first, "train", "position") if self.per_position else (first, "train")

    def groups(self, task: Task) -> tuple[Tensor, list[object]] | None:
        """A number for every query, and what the groups are called.

        Raises:
            SpecError: E0591 for groups by label of queries that have no class.
        """
        return None if self.group is None else label_groups(task, self.group)


def _check_alone(scoring: Scoring) -> None:
    """Refuse what self-influence has no use for.

    Raises:
        SpecError: E0595.
    """
    for field in fields(scoring):
        value = getattr(scoring, field.name)
        if field.name in WITH_QUERIES and value != field.default:
            raise no_use(field.name)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreReport:
    """Scores with the task they are about; printable, and written to a file by `save`.

    Args:
        arrays: The scores under the name `scores`, or those of every layer under the layer's name.
        axes: The names of their axes, in order.
        notes: What the numbers mean: convention, sign, inverse, task.
        groups: What the groups are called, where queries are asked together.
        task: Queries and training examples.
        sign: What a positive score says.
        looks: What the inputs look like, where their numbers say little.
    """

    arrays: dict[str, Tensor]
    axes: tuple[str, ...]
    notes: dict[str, str]
    groups: tuple[object, ...] | None
    task: Task
    sign: str
    looks: InputTexts | None

    @property
    def shape(self) -> list[int]:
        """Of each array."""
        return list(next(iter(self.arrays.values())).shape)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the scores: `.npy`, `.safetensors`, `.csv` or `.parquet`; all or nothing.

        Args:
            path: The file; an earlier one of that name is replaced.

        Raises:
            SpecError: E0583 to E0585 for a file that cannot be written.
            MachineError: E0802 where the disk is full.
        """
        stored = {name: a.cpu().numpy() for name, a in self.arrays.items()}
        named = {} if self.groups is None else {"group": self.groups}
        return write_scores(Path(path), Scores(stored, self.axes, self.notes, named))

    def top(self, k: int = 5, queries: Sequence[int] | None = None) -> list[Top]:
        """The k most helpful and harmful training examples of some queries or groups.

        From the total over layers and positions, which the parts add up to. Self-influence has
        none: see `largest`.
        """
        if self.axes == ("train",) or not k:
            return []
        total = torch.stack([*self.arrays.values()]).sum(0)
        total = total.sum(-1) if "position" in self.axes else total
        rows = range(min(SHOWN, len(total))) if queries is None else queries
        return top(total, k, self.task, queries=rows, grouped=self.groups is not None)

    def largest(self, k: int = 5) -> list[Neighbour]:
        """The k training examples with the largest self-influence; of other scores none."""
        if self.axes != ("train",) or not k:
            return []
        return largest(self.arrays["scores"], k, self.task)

    def table(self, k: int = 5, queries: Sequence[int] | None = None) -> str:
        """The extremes as text, examples as what they look like."""
        if self.axes == ("train",):
            return show_largest(self.largest(k), self.looks)
        return show_top(self.top(k, queries), self.looks, self.sign, self.groups)

    def header(self) -> list[str]:
        """What the numbers mean, a line each."""
        always = ("curvature", "task", "parameters", "convention", "sign", "inverse")
        known = [x for x in ("groups", "precision", "solver") if x in self.notes]
        lines = [f"{key}: {self.notes[key]}" for key in (*always, *known)]
        layers = [] if "scores" in self.arrays else [f"layers: {', '.join(self.arrays)}"]
        return [*lines, *layers]

    def to_json(self, k: int = 0, queries: Sequence[int] | None = None) -> dict[str, Any]:
        """Notes, axes, shape and the extremes as plain values; the scores themselves are in the file."""
        return {
            **self.notes,
            "axes": list(self.axes),
            "shape": self.shape,
            "arrays": list(self.arrays),
            "top": [_plain(one) for one in self.top(k, queries)],
            "largest": [_neighbour(one) for one in self.largest(k)],
        }

    def __str__(self) -> str:
        return "\n".join([*self.header(), "", self.table()])


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRequest:
    """A request for scores that can be computed: what could be refused has been checked.

    Args:
        spec: The spec.
        curvature: Its curvature.
        task: Queries and training examples.
        scoring: Which scores.
        setup: Device, precision, memory and seed.
        described: The task as a spec writes it; None where it was given as such.
    """

    spec: Spec
    curvature: Curvature
    task: Task
    scoring: Scoring
    setup: Setup
    described: TaskSpec | None

    @property
    def rows(self) -> int:
        """Queries, or groups of them."""
        labels = self.scoring.groups(self.task)
        return self.task.Q if labels is None else len(labels[1])

    @settled
    def run(self, progress: ProgressOption = True) -> ScoreReport:
        """Train the task's model where it was described, fit the curvature, and score.

        Args:
            progress: Shown on standard error; `False` for nothing, or a function that is called as
                work proceeds.
        """
        with shown(progress, "cv.score_request") as told:
            return self._run(told)

    def _run(self, progress: Progress | None) -> ScoreReport:
        seed, scoring = self.setup.seed, self.scoring
        task = self.task
        if self.described is not None:
            task = trained_in(self.setup.store, task, seed, progress)
        task = task.to(dtype=self.setup.dtype)
        with limited(self.setup.memory):
            op = fit(
                self.spec,
                task,
                curvature=self.curvature.name or None,
                seed=seed,
                store=self.setup.store,
                progress=progress,
            )
            with warnings.catch_warnings(record=True) as said:
                for category in NOTED:
                    warnings.simplefilter("always", category)
                arrays = _arrays(scoring, op, task, progress)
        labels = scoring.groups(task)
        asked = query_metric(scoring.metric, task.loss)
        notes = _notes(scoring, op, self.curvature.name or "curvature", task, asked)
        groups = None if labels is None else tuple(labels[1])
        looks = None if self.described is None else _looks(self.described, task)
        return ScoreReport(
            arrays, scoring.axes, notes | _noted(said), groups, task, asked.sign, looks
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
) -> ScoreRequest:
    """Ask for scores; what the layers, the memory, the metric or the groups rule out is refused.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: A trained model with its data; or what replaces lines of the spec's own task, whose
            model is then trained.
        scoring: Which scores; the plain ones where not given.
        setup: Device, precision, memory and seed.
        curvature: Which of the spec's curvatures; the one evaluated last where not given.

    Raises:
        SpecError: With every problem of the spec and the task; E0590 to E0592 for a metric or
            positions that the task does not have.
        MachineError: E0801 for scores that do not fit into memory.
    """
    whole, scoring, setup = as_spec(spec), scoring or Scoring(), setup or Setup()
    found = chosen(whole, curvature)
    described = None
    if not isinstance(task, Task):
        described, task = named_task(whole, found, task, setup)
    check_store(setup, found, task)
    with limited(setup.memory), results_on_disk(setup.store is not None):
        inverse = _check_inverse(whole, found, task.to(dtype=setup.dtype), scoring)
        query_metric(scoring.metric, task.loss)
        request = ScoreRequest(whole, found, task, scoring, setup, described)
        _check_size(request, inverse)
    return request


def _check_size(request: ScoreRequest, inverse: Operator) -> None:
    """Refuse scores that do not fit into memory, whatever their computation takes beside them.

    Raises:
        SpecError: E0591 and E0592 for groups or positions that the task does not have.
        MachineError: E0801.
    """
    task, scoring = request.task, request.scoring
    positions = position_count(task) if scoring.per_position else 1
    layers = layer_count(inverse, task) if scoring.per_layer else 1
    if not scoring.own:
        require_scores(task, request.rows, layers * task.N * positions, gradients=False)


def _check_inverse(spec: Spec, curvature: Curvature, task: Task, scoring: Scoring) -> Operator:
    """Refuse a curvature that is not covered or does not fit into memory, and an inverse that it does not have.

    The inverse is tried on an operator of the planned structure, before anything is trained or fitted.
    """
    seen, said = without_ignored(chains_of(curvature), task), evaluation_of(spec, curvature)
    (operator,) = planned((curvature,), seen)
    unfitted = FittedOperator(
        operator,
        seen.parameters,
        None if said is None else said.inverse,
        curvature.name,
        planned_solver(None if said is None else said.solver, seen),
        ExampleMean(1, lambda _: operator),
        declared_inverses(spec),
    )
    found = inverted(unfitted, seen, damping=scoring.damping, inverse=scoring.inverse).operator
    products = None if scoring.products is None else torch.bfloat16
    check_blocks(
        found,
        Request(
            scoring.per_layer, scoring.per_position, products=products, compress=scoring.compress
        ),
    )
    return found


def _arrays(
    scoring: Scoring, op: FittedOperator, task: Task, progress: Progress | None
) -> dict[str, Tensor]:
    if scoring.own:
        own = self_influence(
            op, task, damping=scoring.damping, inverse=scoring.inverse, progress=progress
        )
        return {"scores": own}
    labels = scoring.groups(task)
    scores = influence(
        op,
        task,
        metric=scoring.metric,
        damping=scoring.damping,
        inverse=scoring.inverse,
        per_layer=scoring.per_layer,
        per_position=scoring.per_position,
        groups=None if labels is None else labels[0],
        reduce=scoring.reduce,
        products=None if scoring.products is None else torch.bfloat16,
        compress=scoring.compress,
        progress=progress,
    )
    return scores if isinstance(scores, dict) else {"scores": scores}


def _notes(
    scoring: Scoring, op: FittedOperator, name: str, task: Task, asked: QueryMetric
) -> dict[str, str]:
    """What the numbers mean, as it stands in the file where the format has a place for it."""
    if scoring.own:
        formula = "score[n] = ∇ℓ_nᵀ C⁻¹ ∇ℓ_n"
        sign = "never negative where C⁻¹ is positive semidefinite"
    else:
        formula = "score[q,n] = ∇m_qᵀ C⁻¹ ∇ℓ_n"
        sign = f"positive: {asked.sign}"
    notes = {
        "curvature": name,
        "task": repr(task),
        "parameters": task.origin.text,
        "convention": f"{formula}, not divided by N",
        "sign": sign,
        "metric": asked.name,
        "inverse": _inverse_text(scoring, op),
        "curvlang": VERSION,
    }
    if scoring.group is not None:
        notes["groups"] = f"queries by {scoring.group}, {scoring.reduce}"
    return notes


def _inverse_text(scoring: Scoring, op: FittedOperator) -> str:
    """The inverse that is used, with every parameter's value."""
    if scoring.damping is not None:
        return f"(C + λI)⁻¹, λ = {scoring.damping:g}"
    if scoring.inverse is not None:
        return scoring.inverse
    rule = op.rule if op.rule is not None else default_inverse()
    where = "of the spec" if op.rule is not None else "default: λ = 0.1 × the mean eigenvalue"
    text = " ".join(rule.span.text.split()) if op.rule is not None else rule.inverse.name
    return f"{text} ({where})"


def _noted(said: Sequence[warnings.WarningMessage]) -> dict[str, str]:
    """What was warned of while scores were computed, by the word that it stands under."""
    found: dict[str, list[str]] = {}
    for x in said:
        if x.category in NOTED:
            found.setdefault(NOTED[x.category], []).append(str(x.message))
        else:
            warnings.warn_explicit(x.message, x.category, x.filename, x.lineno)
    return {key: "; ".join(dict.fromkeys(texts)) for key, texts in found.items()}


def _looks(described: TaskSpec, task: Task) -> InputTexts | None:
    """Images as images, text as text."""
    if described.data.name == "characters":
        return texts(task.train[0], task.query[0], spelt)
    seen = pictures(described, task)
    return None if seen is None else images(*seen)


def _plain(one: Top) -> dict[str, Any]:
    return {
        "query": one.query,
        "target": None if one.y is None else one.y.tolist(),
        "helpful": [_neighbour(n) for n in one.helpful],
        "harmful": [_neighbour(n) for n in one.harmful],
    }


def _neighbour(one: Neighbour) -> dict[str, Any]:
    target = None if one.y is None else one.y.tolist()
    return {"train": one.index, "score": one.score, "target": target}
