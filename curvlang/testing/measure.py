"""The gap of a law on one drawn task, with everything fitted once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    formula_points,
    formula_scores,
    program_of,
)
from curvlang.attribution.formulas.points import Points
from curvlang.attribution.formulas.surroundings import surroundings
from curvlang.attribution.streams.request import Request
from curvlang.compiler.planning.plan import Limits
from curvlang.ir.score_program import solves_of
from curvlang.language.chain import (
    Chain,
    Combination,
    Comparison,
    Curvature,
    InverseUse,
    Law,
    Nearness,
    Property,
    Quantity,
    Relation,
    ScoreFormula,
    Solver,
    TaskSpec,
)
from curvlang.language.partition import Partition, partition_of_chain
from curvlang.language.sums import weighted_chains
from curvlang.language.task_notation import task_notation
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.combine import fit_curvature, fit_solver
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.inverse import invert
from curvlang.testing.draws import Draw, built
from curvlang.testing.gaps import (
    NOISE,
    Gap,
    asymmetry,
    block_gap,
    changed_by_use,
    disagreement,
    magnitude,
    negativity,
    plain_gap,
    unsolved,
)
from curvlang.testing.reading import autodiff, cut, read
from curvlang.testing.score_comparison import scores_at

T = TypeVar("T")
KEPT = 4000
"""Fits and readings that are kept; laws about the same tasks share them."""
DAMPING = 0.1
"""λ of the inverse (C + λI)⁻¹ that scores are taken with."""
DRAWS = 400
"""Draws of labels that a mean is taken over: six standard errors are then less than half of it."""


class Bench:
    """Tasks, fits and readings by what decides them; the oldest are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, object] = OrderedDict()

    def task(self, spec: TaskSpec) -> Task:
        """The task that a description builds."""
        return self._once(("task", task_notation(spec)), lambda: built(spec))

    def fit(self, curvature: Curvature, spec: TaskSpec, *, seed: int = 0) -> Operator:
        """The operator."""
        key = ("fit", _key(curvature), task_notation(spec), seed)
        return self._once(key, lambda: fitted(curvature, self.task(spec), seed=seed))

    def dense(self, curvature: Curvature, spec: TaskSpec) -> Tensor:
        """All entries of the operator."""
        key = ("dense", _key(curvature), task_notation(spec))
        return self._once(key, lambda: self.fit(curvature, spec).dense())

    def read(self, curvature: Curvature, spec: TaskSpec) -> Tensor:
        """All entries as the expressions say them."""
        key = ("read", _key(curvature), task_notation(spec))
        return self._once(key, lambda: read(curvature, self.task(spec)))

    def points(self, formula: ScoreFormula, curvature: Curvature, spec: TaskSpec) -> Points:
        """Where a score is taken, with the inverses there; a training is gone through once."""
        notation, program = task_notation(spec), program_of(formula)
        reads = (formula.needs, program.solved_at, repr(formula.functions))
        around = self._once(
            ("around", reads, notation), lambda: surroundings(formula, program, self.task(spec))
        )
        task, operator = self.task(spec), self.fit(curvature, spec)

        def at(tasks: Sequence[Task], seen: Operator | None = None) -> FittedOperator:
            found = fitted(curvature, tasks) if seen is None else seen
            return FittedOperator(found, task.parameters, refit=at)

        asked = InverseRequest(DAMPING if solves_of(program) else None)
        return self._once(
            ("points", _key(curvature), reads, notation),
            lambda: formula_points(formula, at([task], operator), task, asked, around),
        )

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        found: T = self._kept[key]  # type: ignore[assignment]
        return found


def _key(curvature: Curvature) -> Hashable:
    match curvature:
        case Chain(stages=stages):
            return tuple(stage.key for stage in stages)
        case Combination(terms=terms):
            return tuple((weight, _key(part)) for weight, part in terms)


def fitted(
    curvature: Curvature,
    task: Task | Sequence[Task],
    *,
    seed: int = 0,
    batch: int | None = None,
) -> Operator:
    """The operator of a curvature, its last stage alone; of several models together too."""
    limits = Limits(batch=batch)
    return fit_curvature(curvature, task, seed=seed, last=True, limits=limits)[-1].operator


def measure(law: Law, draw: Draw, bench: Bench) -> Gap:
    """How far the task is from the law, to be compared with the law's bound."""
    match law.statement:
        case Property(subject=Quantity(score=ScoreFormula() as score, curvature=curvature)):
            return _score_as_written(score, law, curvature, draw.task, bench)
        case Property(subject=subject, word=word):
            gap = property_gap(word, subject.curvature, draw, bench)
            return _judged(gap, law, subject.curvature, draw.task, bench)
        case Comparison(left=left, relation=Relation.AVERAGES_TO, right=right):
            return _score(left, right, draw.task, bench)
        case Comparison(left=left, right=right):
            return _compared(law, left, right, draw.task, bench)
        case Nearness(subject=subject, target=target, other=other):
            return _nearness(law, (subject, target, other), draw.task, bench)


def _score_as_written(
    score: ScoreFormula, law: Law, curvature: Curvature, spec: TaskSpec, bench: Bench
) -> Gap:
    """The gap of a compiled score to its text, unless rounding of the gradients moves that as far."""
    points = bench.points(score, curvature, spec)
    found = formula_scores(program_of(score), points, bench.task(spec).loss, Request())
    try:
        wanted = scores_at(score, points)
    except np.linalg.LinAlgError as error:
        return Gap(0.0, str(error), undetermined=True)
    gap = plain_gap(found, wanted)
    if gap.size <= law.bound:
        return gap
    if plain_gap(scores_at(score, points, noise=1e-14), wanted).size <= law.bound / 10:
        return gap
    return Gap(0.0, "rounding decides the value", undetermined=True)


ROUNDED = ("as_written", "any_batches", "any_order")
"""Laws about two computations of one curvature that round differently."""


def _judged(gap: Gap, law: Law, curvature: Curvature, spec: TaskSpec, bench: Bench) -> Gap:
    """The gap, unless rounding of the leaves moves the curvature's own reading as far."""
    assert isinstance(law.statement, Property)
    if law.statement.word not in ROUNDED or gap.size <= law.bound:
        return gap
    moved = read(curvature, bench.task(spec), noise=1e-14)
    if plain_gap(moved, bench.read(curvature, spec)).size <= law.bound / 10:
        return gap
    return Gap(0.0, "rounding decides the value", undetermined=True)


def property_gap(word: str, curvature: Curvature, draw: Draw, bench: Bench) -> Gap:
    """The gap of a law about one curvature."""
    spec = draw.task
    floor = NOISE * magnitude(bench.fit(curvature, spec))
    match word:
        case "as_written":
            return plain_gap(bench.dense(curvature, spec), bench.read(curvature, spec), floor)
        case "symmetric":
            sides = (bench.read(curvature, spec), bench.dense(curvature, spec))
            return Gap.worst([asymmetry(x, floor) for x in sides])
        case "positive_semidefinite":
            return negativity(bench.dense(curvature, spec), floor)
        case "solves":
            return unsolved(bench.fit(curvature, spec))
        case "verbs_agree":
            return disagreement(bench.fit(curvature, spec))
        case "any_batches":
            again = fitted(curvature, bench.task(spec), batch=draw.batch)
            return plain_gap(again.dense(), bench.dense(curvature, spec), floor)
        case "any_order":
            again = fitted(curvature, reordered(bench.task(spec), draw.order))
            return plain_gap(again.dense(), bench.dense(curvature, spec), floor)
        case _:
            op = bench.fit(curvature, spec)
            again = fitted(curvature, bench.task(spec))
            return Gap.worst([changed_by_use(op), plain_gap(again.dense(), op.dense(), floor)])


def reordered(task: Task, order: tuple[int, ...]) -> Task:
    """The same task with its examples in another order."""
    places = torch.tensor(order, device=task.train[0].device)
    return task.examples(places)


def _value(quantity: Quantity, spec: TaskSpec, bench: Bench) -> Tensor:
    """A quantity on a task."""
    if quantity.inverse is not None:
        return inverse_entries(quantity.curvature, quantity.inverse, bench.task(spec))
    if quantity.score is not None:
        points = bench.points(quantity.score, quantity.curvature, spec)
        program, loss = program_of(quantity.score), bench.task(spec).loss
        return formula_scores(program, points, loss, Request())
    if quantity.solver is not None:
        return solved_entries(quantity.curvature, quantity.solver, bench.task(spec))
    match quantity.measure:
        case "autodiff":
            return autodiff(quantity.curvature, bench.task(spec))
        case None:
            return bench.dense(quantity.curvature, spec)
        case measure:
            return measured(measure, bench.fit(quantity.curvature, spec))


def inverse_entries(curvature: Curvature, use: InverseUse, task: Task) -> Tensor:
    """All entries of C⁻¹ under a declaration."""
    stage = fit_curvature(curvature, task, last=True)[-1]
    return invert(stage.operator, use, by_example=stage.by_example).dense()


def solved_entries(curvature: Curvature, solver: Solver, task: Task) -> Tensor:
    """All entries of (C + λI)⁻¹ as a solver finds them."""
    stage = fit_curvature(curvature, task, last=True)[-1]
    ready = fit_solver(solver, task)
    assert ready is not None
    return ready.inverse(stage.operator, DAMPING, stage.by_example).dense()


def measured(measure: str | None, op: Operator) -> Tensor:
    """A measure of an operator; all its entries without one."""
    match measure:
        case "trace":
            return op.trace()
        case "norm":
            return op.frobenius()
        case "diagonal":
            return op.diagonal()
        case "eigenvalues":
            return op.eigenvalues().sort().values
        case _:
            return op.dense()


def _compared(law: Law, left: Quantity, right: Quantity, spec: TaskSpec, bench: Bench) -> Gap:
    """Matrices on each layer's block where both have blocks, or where the law says so."""
    a, b = _value(left, spec, bench), _value(right, spec, bench)
    both = all(blocked(q.curvature) for q in (left, right))
    if a.ndim == 2 and (law.blocks or both) and left.score is None:
        return block_gap(a, b, _places(left.curvature, right.curvature, bench.task(spec)))
    return plain_gap(a, b)


def _places(left: Curvature, right: Curvature, task: Task) -> dict[str, Tensor]:
    """The blocks on which two curvatures are compared: each layer's, or the groups that either one has."""
    chains = [chain for x in (left, right) for _, chain in weighted_chains(x)]
    found = {by for chain in chains if (by := partition_of_chain(chain)).kind == "group"}
    by = found.pop() if len(found) == 1 else Partition.LAYER
    return {block.name: block.index for block in task.blocks(by)}


def blocked(curvature: Curvature) -> bool:
    """Whether a curvature is block diagonal."""
    match curvature:
        case Chain(stages=stages):
            return any(s.name == "block_diagonal" for s in stages)
        case Combination(terms=terms):
            return all(blocked(part) for _, part in terms)


def _nearness(
    law: Law, quantities: tuple[Quantity, Quantity, Quantity], spec: TaskSpec, bench: Bench
) -> Gap:
    """(‖subject − target‖ − ‖other − target‖) / ‖target‖: above 0 where the subject is farther."""
    subject, target, other = (bench.dense(q.curvature, spec) for q in quantities)
    if law.blocks:
        task = bench.task(spec)
        layers = task.blocks()
        subject, target, other = (cut(x, layers) for x in (subject, target, other))
    near, far = float((subject - target).norm()), float((other - target).norm())
    scale = max(float(x.norm()) for x in (subject, target, other))
    size = max(0.0, near - far) / scale if scale > 0 else 0.0
    return Gap(size, f"distances {near:.6g} and {far:.6g}")


def _score(left: Quantity, right: Quantity, spec: TaskSpec, bench: Bench) -> Gap:
    """The largest |mean − exact| / standard error over the entries, for `DRAWS` draws of labels."""
    task = bench.task(spec)
    wanted = _value(right, spec, bench)
    first = 1 + DRAWS * int(str(spec.data.arguments.get("seed", 0)))
    found = torch.stack(
        [measured(left.measure, fitted(left.curvature, task, seed=first + k)) for k in range(DRAWS)]
    )
    error = found.std(0) / DRAWS**0.5
    # An entry that no draw changes has no error but rounding.
    rounding = 1e-9 * max(float(wanted.abs().max()), float(found.abs().max()))
    scores = (found.mean(0) - wanted).abs() / (error + rounding).clamp(min=1e-300)
    return Gap(float(scores.max()), "standard errors of the mean")
