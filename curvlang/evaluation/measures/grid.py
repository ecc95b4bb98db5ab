"""What a measure is computed from, and the table that it fills: curvatures by settings of the inverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.fidelity import Setting
from curvlang.evaluation.statistics.interval import Interval
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.fit import FittedStage
from curvlang.runtime.inverse import invert
from curvlang.runtime.solver import FittedSolver

RESAMPLES = 200
ONE_VALUE = "no interval, since a single query or example says nothing of the spread"
Fit = Callable[[Task], Sequence[FittedStage]]
"""Fits the curvatures on a task, dense matrices decomposed."""


@dataclass(frozen=True, slots=True)
class MeasureTable:
    """One measure under one inverse.

    Args:
        values: `[curvatures][settings]`; None where there is none.
        notes: Why, one sentence for each curvature and reason.
    """

    values: tuple[tuple[Interval | None, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class MeasureInput:
    """What a measure is computed from.

    Args:
        base: The trained task in the precision of training.
        task: The same in the precision of the analysis.
        stages: Curvatures fitted on it.
        fit: Fits them on another task.
        chosen: Settings of the inverse.
        seed: Of the model's initialisation.
        solver: For curvatures without structure.
        cost: What the queries are asked for; their loss where not given.
    """

    base: Task
    task: Task
    stages: Sequence[FittedStage]
    fit: Fit
    chosen: Sequence[Setting]
    seed: int
    solver: FittedSolver | None = None
    cost: Loss | None = None

    @property
    def metric(self) -> Loss:
        """What the queries are asked for."""
        return self.task.loss if self.cost is None else self.cost

    def inverse(self, stage: FittedStage, setting: Setting) -> Operator:
        """C⁻¹ of a curvature."""
        return invert(stage.operator, setting.use, self.solver, by_example=stage.by_example)


class Grid:
    """A table that is filled cell by cell, with the reasons of cells that stay empty.

    Args:
        stages: Curvatures, one row for each.
        chosen: Settings, one column for each.
    """

    def __init__(self, stages: Sequence[FittedStage], chosen: Sequence[Setting]) -> None:
        self.stages, self.chosen = stages, chosen
        self.values: list[list[Interval | None]] = [[None] * len(chosen) for _ in stages]
        self.reasons: list[list[str]] = [[""] * len(chosen) for _ in stages]

    def refused(self, row: int, column: int, error: SpecError) -> None:
        """An inverse that is refused has no value here, as in the table of scores, and the same reason."""
        self.reasons[row][column] = "; ".join(d.headline for d in error.diagnostics)

    def table(self, columns: slice) -> MeasureTable:
        """Some neighbouring columns as a table."""
        notes = [
            f"`{stage.label}`: {reason}"
            for stage, row in zip(self.stages, self.reasons, strict=True)
            for reason in dict.fromkeys(row[columns])
            if reason
        ]
        return MeasureTable(tuple(tuple(row[columns]) for row in self.values), tuple(notes))


def grid_of(
    given: MeasureInput, stages: Sequence[FittedStage], one: Callable[[Operator], Interval]
) -> Grid:
    """`one` of every inverse."""
    grid = Grid(stages, given.chosen)
    for column in range(len(given.chosen)):
        fill(grid, given, stages, column, one)
    return grid


def fill(
    grid: Grid,
    given: MeasureInput,
    stages: Sequence[FittedStage],
    column: int,
    one: Callable[[Operator], Interval],
) -> None:
    """`one` of every inverse at one setting."""
    for row, stage in enumerate(stages):
        try:
            value = one(given.inverse(stage, given.chosen[column]))
            grid.values[row][column] = value
            if not value.has_ends:
                grid.reasons[row][column] = ONE_VALUE
        except SpecError as error:
            grid.refused(row, column, error)
