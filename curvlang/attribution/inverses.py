"""The inverse that scores are taken with, and the task as the curvature sees it."""

from __future__ import annotations

from curvlang.attribution.indexed.gradient_index import GradientIndex
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.values import another_type
from curvlang.language import inverse_text, solver_text
from curvlang.language.chain import InverseUse
from curvlang.language.checking.inverses import shift
from curvlang.models.task import Task, check_task
from curvlang.operators import Operator
from curvlang.runtime.combine import fit_solver
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.progress.listeners import Progress


def seen_by(operator: FittedOperator | Operator, task: Task) -> Task:
    """The task with the parameters that a curvature is on; those that it ignores are constants.

    Raises:
        SpecError: E0563 for something else than a curvature or a task, E0835 for an index of another model or
            other training examples, E0759 where the curvature is on
            parameters that the task does not have.
    """
    check_task(task)
    if not isinstance(operator, FittedOperator | Operator):
        raise another_type("operator", operator, "a fitted curvature", "`cv.fit(spec, task)`")
    if isinstance(operator, GradientIndex):
        operator.check(task)
    if isinstance(operator, FittedOperator) and operator.parameters != task.parameters:
        missing = [name for name in operator.parameters if name not in task.parameters]
        if missing:
            raise _of_another_model(f"the task has no parameter `{missing[0]}`")
        task = task.restricted(operator.parameters)
        if operator.parameters != task.parameters:
            raise _of_another_model("the task has the same parameters in another order")
    if operator.shape[0] != task.P:
        raise _of_another_model(
            f"it is of size {operator.shape[0]}, the task has P = {task.P} parameters"
        )
    return task


def _of_another_model(why: str) -> SpecError:
    return refusal(
        Code.E0759,
        f"the curvature was fitted on another model: {why}",
        "fit it on this task (`cv.fit(spec, task)`), or give the task of the model that it was "
        "fitted on",
    )


def two_inverses(why: str = "", repair: str = "give one") -> SpecError:
    """The refusal of a damping beside an inverse."""
    return refusal(Code.E0709, f"both `damping` and `inverse` are given{why}", repair)


def without_open_damping(use: InverseUse) -> SpecError:
    """The refusal of a damping where the spec's own inverse has one."""
    return refusal(
        Code.E0709,
        "`damping` is given, and the spec's inverse leaves no damping open",
        'leave `damping` out; or take another inverse, `inverse="tikhonov"`',
        labels=label_at(use.span, "this inverse"),
    )


def inverted(
    operator: FittedOperator | Operator,
    task: Task,
    *,
    damping: float | None = None,
    inverse: str | None = None,
    solve: str | None = None,
    progress: Progress | None = None,
) -> FittedOperator:
    """C⁻¹ under the spec's inverse and solver, or those given instead.

    Raises:
        SpecError: E0709 where both `damping` and `inverse` are given.
    """
    fitted = (
        operator
        if isinstance(operator, FittedOperator)
        else FittedOperator(operator, task.parameters)
    )
    if damping is not None and inverse is not None:
        raise two_inverses()
    if inverse is not None or solve is not None:
        rule = fitted.rule
        if inverse is not None:
            rule = inverse_text(inverse, "<inverse>", fitted.declared)
        solver = fitted.solver
        if solve is not None:
            solver = fit_solver(solver_text(solve, "<solve>"), task)
        elif rule is not None and rule is not fitted.rule and shift(rule.inverse) is None:
            # The spec's solver is for the spec's inverse: a linear system, which this is not.
            solver = None
        fitted = fitted.replaced(rule=rule, solver=solver)
    return fitted.inverse(damping, progress=progress)
