"""The models that a score reads besides the evaluated one: its checkpoints, and models from other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvlang.attribution.formulas.points import Point, Points
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir.score_program import ScoreProgram
from curvlang.language.chain import ScoreFormula
from curvlang.models.execution.copies import copied
from curvlang.models.task import Task
from curvlang.models.trajectory import Trajectory
from curvlang.operators import Identity, Operator
from curvlang.training.baseline import train_baseline
from curvlang.training.replay import not_followed
from curvlang.training.subsets import derived_seed
from curvlang.training.training import check_trainable
from curvlang.training.training_points import (
    checkpoint_steps,
    in_training_precision,
    training_points,
)


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """Tasks about other models than the evaluated one.

    Args:
        checkpoints: Along each model's training, `[e][h]`.
        models: At the ends of their trainings, the evaluated one the first.
        rates: The learning rate at each checkpoint.
    """

    checkpoints: Sequence[Sequence[Task]] = ()
    models: Sequence[Task] = ()
    rates: Tensor | None = None

    def points(self, final: Point) -> Points:
        """All points, with the same queries as the evaluated model; they have no curvature of their own."""
        if not self.checkpoints and not self.models:
            return Points(final)
        own = slice(0, final.task.Q)

        def at(task: Task) -> Point:
            some = task if task.Q == final.task.Q else task.queries(own)
            return Point(some, _identity(final.inverse))

        return Points(
            final,
            [[at(x) for x in row] for row in self.checkpoints],
            [final, *(at(x) for x in self.models[1:])] if self.models else (),
            self.rates,
        )


def _identity(inverse: Operator) -> Identity:
    one = torch.ones((), dtype=inverse.dtype, device=inverse.device)
    return Identity(one, inverse.size)


ALONE = Surroundings()
"""Of a score that reads the evaluated model alone."""


def surroundings(formula: ScoreFormula, program: ScoreProgram, task: Task) -> Surroundings:
    """The other models that a score reads; they are trained here, or read from the task's files.

    Args:
        formula: The score.
        program: What it is computed by.
        task: The evaluated model, in the precision of the analysis.

    Raises:
        SpecError: As `check_surroundings`, and E0504 where a training diverges.
    """
    if not (program.checkpoints or program.models):
        return ALONE
    check_surroundings(formula, program, task)
    base = in_training_precision(task)
    trajectory = task.trajectory or Trajectory()
    seeds = [_seed(task, k) for k in range(trajectory.models if program.models else 1)]
    models = []
    if program.models:
        others = [train_baseline(base, seed).model for seed in seeds[1:]]
        models = [task, *(_at(task, x) for x in others)]
    rows: list[list[Task]] = []
    rates: list[float] = []
    if program.checkpoints:
        if trajectory.given:
            found = trajectory.loaded(task.model)
            rows, rates = [[_at(task, x) for x, _ in found]], [rate for _, rate in found]
        else:
            steps = checkpoint_steps(base, trajectory)
            along = [training_points(base, seed, steps) for seed in seeds]
            rows = [[_at(task, x.model) for x in row] for row in along]
            rates = [x.rate for x in along[0]]
    kept = torch.tensor(rates, dtype=torch.float64, device=task.device) if rates else None
    return Surroundings(rows, models, kept)


def check_surroundings(formula: ScoreFormula, program: ScoreProgram, task: Task) -> None:
    """Refuse, before anything is trained, a score whose other models the task does not have.

    Raises:
        SpecError: E0428 for a task without checkpoints, or whose training ends before the first; E0434 for
            a curvature at other models; E0503 and E0509 for one that is not trained here.
    """
    if program.solves_elsewhere:
        raise refusal(
            Code.E0434,
            f"`{formula.name}` solves rows of other models than the evaluated one, where the curvature "
            "is not fitted",
            "solve rows without the indices `h` and `e`: `u[q,p]`, `v[n,p]`",
            labels=label_at(formula.span, "this score"),
        )
    trajectory = task.trajectory or Trajectory()
    if program.checkpoints and not trajectory.checkpoints:
        raise _no_checkpoints(formula)
    several = program.models and trajectory.models > 1
    if program.checkpoints and trajectory.given and several:
        raise refusal(
            Code.E0428,
            "the checkpoints in files are those of one model, and the score reads those of "
            f"{trajectory.models} models",
            "state `checkpoints every(epochs = …)`, or leave `models` out",
        )
    along = program.checkpoints and not trajectory.given
    if several or along:
        if task.origin.elsewhere:
            raise not_followed(
                formula.name,
                f"the model was not trained here: its parameters are {task.origin.text}",
                f"give its checkpoints as files, or {task.origin.instead}",
            )
        check_trainable(task, f"`{formula.name}`")
    if along:
        checkpoint_steps(task, trajectory)


def _no_checkpoints(formula: ScoreFormula) -> SpecError:
    return refusal(
        Code.E0428,
        f"the score `{formula.name}` sums over checkpoints, and the task has none",
        "add a line such as `checkpoints every(epochs = 20)` to the task, or give them in Python: "
        "`task.replaced(trajectory=cv.Trajectory(epochs=20))`",
        labels=label_at(formula.span, "this score"),
    )


def _seed(task: Task, number: int) -> int:
    own = task.origin.seed or 0
    return own if number == 0 else derived_seed(own, 10, number)


def _at(task: Task, other: nn.Module) -> Task:
    """The task at the parameters of another model; what is constant in it stays constant."""
    model = copied(task.model)
    held = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in held:
                parameter.copy_(held[name])
    return task.with_model(model)
