"""The curvatures of an evaluation: fitted in one run at the evaluated model, and at each other one that scores solve at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from curvlang.attribution.formulas.curvatures import FittedElsewhere
from curvlang.attribution.formulas.surroundings import Surroundings
from curvlang.compiler.planning.plan import Limits
from curvlang.evaluation.preflight import Plan
from curvlang.evaluation.question import Question, Run
from curvlang.models.task import Task
from curvlang.runtime.combine import fit_all, fit_solver
from curvlang.runtime.fit import FittedStage
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.inverse import unstructured
from curvlang.runtime.solver import FittedSolver


def stages_of(plan: Plan, at: Task | Sequence[Task], run: Run) -> dict[str, FittedStage]:
    """Every curvature of the plan by its label, fitted in one run, at a model or at several together."""
    formed = fit_all(plan.formed, at, seed=run.seed, progress=run.progress)
    multiplied = fit_all(plan.multiplied, at, seed=run.seed, limits=Limits(dense=1))
    return {stage.label: stage for stage in (*formed, *multiplied)}


def curvatures_elsewhere(
    question: Question, plan: Plan, around: Surroundings, run: Run
) -> dict[str, FittedElsewhere]:
    """Every curvature at the other models that scores solve at, all fitted in one run at each of them."""
    if not around.fitted_at:
        return {}
    made: dict[tuple[int, ...], tuple[dict[str, FittedStage], FittedSolver | None]] = {}

    def fit(label: str, tasks: Sequence[Task]) -> FittedOperator:
        key = tuple(map(id, tasks))
        if key not in made:
            stages = stages_of(plan, tasks, run)
            made[key] = stages, fit_solver(question.solver, tasks, seed=run.seed)
        stages, solver = made[key]
        own = stages[label]
        operator = own.operator
        if solver is None and operator.spectrum_known and unstructured(operator):
            operator = operator.spectral_form()
        return FittedOperator(operator, tasks[0].parameters, None, label, solver, own.by_example)

    def of(label: str) -> FittedElsewhere:
        found = FittedElsewhere(partial(fit, label), len(around.fitted_at))
        for tasks in around.fitted_at:
            found.at(tasks)
        return found

    labels = {c.name: c.name for c in plan.curvatures}
    labels[""] = plan.reference.name
    each = {label: of(label) for label in dict.fromkeys(labels.values())}
    return {name: each[label] for name, label in labels.items()}
