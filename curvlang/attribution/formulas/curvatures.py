"""The curvature of a score at other models than the evaluated one: fitted there, and inverted as the scores mean it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir.score_program import ScoreProgram
from curvlang.language.chain import ScoreFormula
from curvlang.models.task import Task
from curvlang.models.trajectory import Trajectory
from curvlang.operators import Operator
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.memory import require
from curvlang.training.training_points import stretches

HELD = 3
"""A curvature, its spectral form and its inverse."""

Fit = Callable[[Sequence[Task]], FittedOperator]
"""Fits a curvature to the training examples at a model, or at several models together."""


@dataclass(slots=True, eq=False)
class FittedElsewhere:
    """A curvature at other models, fitted once for each of them.

    Args:
        fit: Fits it.
        count: At how many models it is going to be fitted: memory is asked for once.
    """

    fit: Fit
    count: int = 1
    _kept: dict[tuple[int, ...], tuple[Sequence[Task], FittedOperator]] = field(
        default_factory=dict
    )

    def at(self, tasks: Sequence[Task]) -> FittedOperator:
        """The curvature at a model, or at several together.

        Raises:
            MachineError: E0801 after the first fit, where the others do not fit into memory beside it.
        """
        key = tuple(map(id, tasks))
        if key not in self._kept:
            found = self.fit(tasks)
            if not self._kept and self.count > 1:
                check_held(found, self.count - 1, self.count)
            self._kept[key] = tasks, found
        return self._kept[key][1]


@dataclass(frozen=True, slots=True, eq=False)
class InverseElsewhere:
    """The inverse of a curvature at other models.

    Args:
        fitted: The curvature.
        invert: C⁻¹ of a fitted one, at a model.
    """

    fitted: FittedElsewhere
    invert: Callable[[FittedOperator, Task], Operator]

    def at(self, tasks: Sequence[Task]) -> Operator:
        """C⁻¹ at a model, or of the curvature of several together."""
        return self.invert(self.fitted.at(tasks), tasks[0])


def refitted(formula: ScoreFormula, operator: FittedOperator | Operator) -> Fit:
    """What fits the curvature of an operator at other models.

    Raises:
        SpecError: E0434 for an operator that does not know what it was fitted by.
    """
    refit = operator.refit if isinstance(operator, FittedOperator) else None
    if refit is None:
        raise refusal(
            Code.E0434,
            f"`{formula.name}` reads the curvature at other models than the evaluated one, and this "
            "operator does not say what it was fitted by",
            "fit it here, `cv.fit(spec, task)`; one that was read from a file cannot be fitted again",
            labels=label_at(formula.span, "this score"),
        )
    return refit


def fits_elsewhere(program: ScoreProgram, task: Task) -> list[int]:
    """To how many models each fit of the curvature is, the one at the evaluated model left out.

    Args:
        program: What the score is computed by.
        task: Its model need not be trained.
    """
    read = program.solved_at | program.applied_at
    trajectory, along = task.trajectory or Trajectory(), models_along(task)
    models = trajectory.models if program.models else 1
    whole, inside = (models if ("e", *x) in read else int(x in read) for x in (("h",), ("h", "c")))
    ends = (models - 1) * (("e",) in read)
    return along * whole + [1] * (sum(along) * inside + ends)


def models_along(task: Task) -> list[int]:
    """How many models each checkpoint stands for; nothing where a task states none.

    Args:
        task: Its model need not be trained.
    """
    trajectory = task.trajectory or Trajectory()
    if trajectory.files or not trajectory.checkpoints or task.recipe is None:
        return [1] * len(trajectory.files)
    return [len(x.models) for x in stretches(task, trajectory)]


def check_held(fitted: FittedOperator, more: int, count: int) -> None:
    """Refuse curvatures of other models that do not fit into memory beside one that is there.

    Args:
        fitted: The curvature at one model.
        more: At how many others it is going to be held.
        count: At how many in all.

    Raises:
        MachineError: E0801.
    """
    purpose = f"the curvature at {count} models"
    require(HELD * fitted.memory() * more, fitted.operator.device, purpose)
