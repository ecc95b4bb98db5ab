"""The models that a score reads besides the evaluated one: its checkpoints, and models from other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from curvlang.attribution.formulas.curvatures import InverseElsewhere
from curvlang.attribution.formulas.points import Point, Points, StretchPoints
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir.score_program import ScoreProgram
from curvlang.language.chain import Inverse, ScoreFormula
from curvlang.models.execution.copies import copied
from curvlang.models.fingerprint import digest, parameter_parts
from curvlang.models.task import Task
from curvlang.models.trajectory import Trajectory
from curvlang.operators import Identity, Operator
from curvlang.training.baseline import train_baseline
from curvlang.training.replay import check_followed, not_followed, step_count
from curvlang.training.subsets import derived_seed, without_classes
from curvlang.training.training import check_trainable
from curvlang.training.training_points import (
    Stretch,
    TrainingPoint,
    in_training_precision,
    stretches,
    training_points,
)


@dataclass(frozen=True, slots=True, eq=False)
class OtherModel:
    """Another model than the evaluated one.

    Args:
        task: About this model.
        moments: Adam's running means there, [P] by the leaf's name; empty where no score reads them.
    """

    task: Task
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    def point(self, final: Point, tasks: Sequence[Task], here: CurvatureThere | None) -> Point:
        """With the queries of the evaluated model.

        Args:
            final: The evaluated model.
            tasks: The models whose curvature it has.
            here: Gives the curvature; None where nothing reads it here.
        """
        task = self.task
        if task.Q != final.task.Q:
            task = task.queries(slice(0, final.task.Q))
        one = torch.ones((), dtype=final.inverse.dtype, device=final.inverse.device)
        inverse: Operator = Identity(one, final.inverse.size)
        fitted = None
        if here is not None and here.solved:
            inverse = here.inverses.at(tasks)
        if here is not None and here.applied:
            fitted = here.inverses.fitted.at(tasks)
        return Point(task, inverse, self.moments, fitted=fitted)


@dataclass(frozen=True, slots=True, eq=False)
class CurvatureThere:
    """The curvature at other models, and what scores read of it.

    Args:
        inverses: The curvature with its inverse.
        solved: Whether its inverse is applied.
        applied: Whether other functions of its spectrum are.
    """

    inverses: InverseElsewhere
    solved: bool
    applied: bool


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """Other models than the evaluated one.

    Args:
        checkpoints: Along each model's training, `[e][h]`, each of one model or several.
        models: At the ends of their trainings, the evaluated one the first.
        rates: The learning rate at each checkpoint.
        times: The sum of the learning rates of the steps that each stands for.
        moments: Adam's running means at the end of the evaluated model's training.
        solved_at: At which of them the inverse is applied, as `ScoreProgram.solved_at` has it.
        applied_at: At which of them functions of the spectrum are, likewise.
        functions: Those functions, by name.
    """

    checkpoints: Sequence[Sequence[Sequence[OtherModel]]] = ()
    models: Sequence[OtherModel] = ()
    rates: Tensor | None = None
    times: Tensor | None = None
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    solved_at: frozenset[tuple[str, ...]] = frozenset()
    applied_at: frozenset[tuple[str, ...]] = frozenset()
    functions: Mapping[str, Inverse] = field(default_factory=dict)

    def points(self, final: Point, inverses: InverseElsewhere | None = None) -> Points:
        """All points, with the same queries as the evaluated model.

        Args:
            final: The evaluated model.
            inverses: Gives C⁻¹ at the others; needed where `fitted_at` has any.
        """
        final = replace(final, moments=self.moments)
        rows = [
            [self._stretch(final, inverses, x, first=k == 0) for x in row]
            for k, row in enumerate(self.checkpoints)
        ]
        there = self._there(inverses, ("e",), ("e",))
        others = (x.point(final, (x.task,), there) for x in self.models[1:])
        models = [final, *others] if self.models else ()
        return Points(
            final,
            rows,
            models,
            self.rates,
            times=self.times,
            functions=self.functions,
        )

    def _there(
        self, inverses: InverseElsewhere | None, *letters: tuple[str, ...]
    ) -> CurvatureThere | None:
        """What is read of the curvature where something with one of these sets of letters is."""
        solved, applied = (not x.isdisjoint(letters) for x in (self.solved_at, self.applied_at))
        if inverses is None or not (solved or applied):
            return None
        return CurvatureThere(inverses, solved, applied)

    def _stretch(
        self,
        final: Point,
        inverses: InverseElsewhere | None,
        own: Sequence[OtherModel],
        *,
        first: bool,
    ) -> StretchPoints:
        """A checkpoint: as a whole, with the curvature of all its models, and each of them."""
        whole: list[tuple[str, ...]] = [("e", "h")]
        each: list[tuple[str, ...]] = [("e", "h", "c")]
        if first:
            whole, each = [*whole, ("h",)], [*each, ("h", "c")]
        tasks = tuple(x.task for x in own)
        there, inside = self._there(inverses, *whole), self._there(inverses, *each)
        return StretchPoints(
            own[-1].point(final, tasks, there),
            [x.point(final, (x.task,), inside) for x in own],
        )

    @property
    def fitted_at(self) -> list[tuple[Task, ...]]:
        """The models besides the evaluated one at which the curvature is fitted; several together of a checkpoint."""
        read, found = self.solved_at | self.applied_at, []
        for k, row in enumerate(self.checkpoints):
            for own in row:
                if ("e", "h") in read or (k == 0 and ("h",) in read):
                    found.append(tuple(x.task for x in own))
                if ("e", "h", "c") in read or (k == 0 and ("h", "c") in read):
                    found += [(x.task,) for x in own]
        return [*found, *((x.task,) for x in (self.models[1:] if ("e",) in read else ()))]


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
    check_surroundings(formula, program, task)
    if not (program.checkpoints or program.models or program.moments_at_ends):
        return Surroundings(functions=formula.functions)
    trajectory = task.trajectory or Trajectory()
    base = in_training_precision(task)
    seeds = [_seed(task, k) for k in range(trajectory.models if program.models else 1)]
    times: list[float] = []
    if program.checkpoints and trajectory.given:
        rows, rates = _from_files(task, trajectory)
        models = _ends(program, task, base, seeds)
    else:
        along = stretches(base, trajectory) if program.checkpoints else []
        rows, rates, models = _trained(program, task, base, seeds, along)
        times = [x.time(base) for x in along]
    known = (torch.tensor(x, dtype=torch.float64, device=task.device) for x in (rates, times))
    kept_rates, kept_times = known
    moments = models[0].moments if models else {}
    ends = models if program.models else ()
    return Surroundings(
        rows,
        ends,
        kept_rates,
        kept_times,
        moments,
        program.solved_at,
        program.applied_at,
        formula.functions,
    )


def stated_models(program: ScoreProgram, task: Task) -> str:
    """Digest of how a task states the other models that a score reads; empty where it reads or states none.

    Args:
        program: The score.
        task: The evaluated model, with what it states.

    Raises:
        SpecError: E0555 and E0556 for checkpoints that cannot be read.
    """
    trajectory = task.trajectory
    if trajectory is None or not (program.checkpoints or program.models or program.moments_at_ends):
        return ""
    said = replace(trajectory, files=(), rates=(), states=())
    if not program.models:
        said = replace(said, models=1)
    if not program.checkpoints:
        said = replace(said, epochs=0, steps=0, segments=0, per_segment=1)
    parts: list[str | Tensor] = [repr(said)]
    if program.checkpoints and trajectory.given:
        for model, rate in trajectory.loaded(task.model):
            parts += [str(rate), *parameter_parts(model)]
        for state in trajectory.running_means(task.model):
            for leaf, held in state.items():
                parts += [leaf, *(x for pair in held.items() for x in pair)]
    else:
        parts.append(repr(task.recipe))
    return digest(*parts)


def _trained(
    program: ScoreProgram, task: Task, base: Task, seeds: Sequence[int], along: Sequence[Stretch]
) -> tuple[list[list[tuple[OtherModel, ...]]], list[float], list[OtherModel]]:
    """Checkpoints with their rates, and the ends of the trainings; each training is gone through once."""
    if not along:
        return [], [], _ends(program, task, base, seeds)
    steps = {k for stretch in along for k in stretch.models}
    ends = [step_count(base)] if program.moments_at_ends or len(seeds) > 1 else []
    wanted = sorted({*steps, *ends})
    rows, models = [], []
    rates: list[float] = []
    for number, seed in enumerate(seeds):
        found = {x.steps: x for x in training_points(base, seed, wanted)}
        other = {k: _other(task, found[k]) for k in steps}
        rows.append([tuple(other[k] for k in x.models) for x in along])
        rates = [found[x.models[-1]].rate for x in along]
        if ends:
            end = _other(task, found[ends[0]])
            models.append(OtherModel(task, end.moments) if number == 0 else end)
        else:
            models.append(OtherModel(task))
    return rows, rates, models


def _ends(program: ScoreProgram, task: Task, base: Task, seeds: Sequence[int]) -> list[OtherModel]:
    """The evaluated model and those of other seeds, with Adam's running means where they are read."""
    if program.moments_at_ends:
        points = [training_points(base, seed, [step_count(base)])[0] for seed in seeds]
        found = [_other(task, x) for x in points]
        return [OtherModel(task, found[0].moments), *found[1:]]
    others = [train_baseline(base, seed).model for seed in seeds[1:]]
    return [OtherModel(task), *(OtherModel(_at(task, x)) for x in others)]


def _other(task: Task, point: TrainingPoint) -> OtherModel:
    moments = {"moment": point.first, "second": point.second} if point.second else {}
    return OtherModel(_at(task, point.model), {k: _vector(task, x) for k, x in moments.items()})


def _vector(task: Task, held: Mapping[str, Tensor]) -> Tensor:
    """Tensors by the parameter's name as one vector; 0 for a parameter that no step has reached."""
    own = dict(task.model.named_parameters())
    parts = [held.get(name, torch.zeros_like(own[name])) for name in task.parameters]
    return torch.cat([x.detach().reshape(-1).to(task.device, torch.float64) for x in parts])


def _from_files(
    task: Task, trajectory: Trajectory
) -> tuple[list[list[tuple[OtherModel, ...]]], list[float]]:
    found = trajectory.loaded(task.model)
    moments: Sequence[Mapping[str, Tensor]] = [
        {name: _vector(task, x) for name, x in state.items()}
        for state in trajectory.running_means(task.model)
    ] or [{}] * len(found)
    others = [OtherModel(_at(task, x), held) for (x, _), held in zip(found, moments, strict=True)]
    row: list[tuple[OtherModel, ...]] = [(x,) for x in others]
    return [row], [rate for _, rate in found]


def check_surroundings(formula: ScoreFormula, program: ScoreProgram, task: Task) -> None:
    """Refuse, before anything is trained, a score whose other models the task does not have.

    Raises:
        SpecError: E0428 for a task without checkpoints, or whose training ends before the first; E0503 and
            E0509 for one that is not trained here.
    """
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
    if program.doubts and task.loss.name != "cross_entropy":
        raise without_classes(f"`{formula.name}` reads the probability of a label", task)
    if program.moments:
        _check_moments(formula, program, task, trajectory)
    if several or along:
        if task.origin.elsewhere:
            raise not_followed(
                formula.name,
                f"the model was not trained here: its parameters are {task.origin.text}",
                (
                    "give its checkpoints as files"
                    if along
                    else "give models as files, which `h` runs over"
                )
                + f", or {task.origin.instead}",
            )
        check_trainable(task, f"`{formula.name}`")
    if program.times:
        _check_times(formula, task, trajectory)
    if along and not stretches(task, trajectory):
        what = "before its first checkpoint"
        if trajectory.segments:
            what = f"and {trajectory.segments} × {trajectory.per_segment} models were asked for"
        raise refusal(
            Code.E0428,
            f"the training ends after {step_count(task)} steps, {what}",
            "state `checkpoints` more often, or train for longer"
            if not trajectory.segments
            else "state fewer segments or models, or train for longer",
        )


def _check_times(formula: ScoreFormula, task: Task, trajectory: Trajectory) -> None:
    """Refuse the time of a training that is not known, or is not one of gradient flow.

    Raises:
        SpecError: E0440 for checkpoints in files, E0509 for another optimiser than plain SGD.
    """
    if trajectory.given:
        raise refusal(
            Code.E0440,
            f"`{formula.name}` reads `time[h]`, and files do not say which steps led to them",
            "state `checkpoints segments(count = 3)` or `every(epochs = …)` of a training here, or write "
            "the numbers as parameters of the score",
            labels=label_at(formula.span, "this score"),
        )
    assert task.recipe is not None
    check_followed(formula.name, task.recipe)


def _check_moments(
    formula: ScoreFormula, program: ScoreProgram, task: Task, trajectory: Trajectory
) -> None:
    """Refuse Adam's running means of a training that has none.

    Raises:
        SpecError: E0436.
    """
    in_files = bool(trajectory.states) and not program.moments_at_ends
    recipe = task.recipe
    if not in_files and (recipe is None or recipe.optimiser == "sgd" or task.origin.elsewhere):
        what = "is not known" if recipe is None or task.origin.elsewhere else "is `sgd`"
        raise refusal(
            Code.E0436,
            f"`{formula.name}` reads Adam's running means, and the optimiser of this training {what}",
            "train with `adam(…)` or `adamw(…)`; or give the optimiser's states with checkpoints in "
            "files, `cv.Trajectory(files=[…], states=[optimiser.state_dict(), …])`",
            labels=label_at(formula.span, "this score"),
        )


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
    return at_parameters(task, dict(other.named_parameters()))


def at_parameters(task: Task, held: Mapping[str, Tensor]) -> Task:
    """The task at other parameters, by name; what is constant in it stays constant."""
    model = copied(task.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in held:
                parameter.copy_(held[name])
    return task.with_model(model)
