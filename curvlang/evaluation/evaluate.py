"""The evaluation of a chain: what each step costs, in structure, error and attribution quality."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.source import NOWHERE
from curvlang.evaluation.cache import Cache
from curvlang.evaluation.ceiling import noise_ceiling
from curvlang.evaluation.chain import (
    Measured,
    Setting,
    forward_error,
    measure,
    sampled,
    settings,
    too_long,
)
from curvlang.evaluation.ground_truth import GroundTruth, ground_truth
from curvlang.evaluation.influence import shares, spearman
from curvlang.evaluation.lds import (
    Resamples,
    bootstrap_scores,
    constant_note,
    draw_resamples,
    percentile_interval,
    predictions,
    verdict,
)
from curvlang.evaluation.protocol import GRADIENTS, GRADIENTS_BY_PRODUCTS, LDS, SWEEP
from curvlang.evaluation.result import (
    Comparison,
    Interval,
    Point,
    Protocol,
    Result,
    Step,
    TaskSummary,
)
from curvlang.language import default_inverse, swept
from curvlang.language.chain import Chain, Curvature, InverseUse, Solver
from curvlang.language.inverses import shift
from curvlang.language.sums import weighted_chains
from curvlang.models.blocks import blocks
from curvlang.models.leaves import per_example_gradients
from curvlang.models.task import Task
from curvlang.operators import BlockDiagonal, Operator, Scaled, Sum
from curvlang.runtime.combine import fit_combination
from curvlang.runtime.execute import accumulation_dtype
from curvlang.runtime.fit import FittedStage, fit_chains
from curvlang.runtime.others import without_ignored
from curvlang.runtime.solver import FittedSolver

Progress = Callable[[str, int, int], None]
BATCH = 512
"""Examples whose gradients are formed at once."""


@dataclass(slots=True, eq=False)
class Evaluated:
    """A result with the scores behind it.

    Args:
        result: What was found.
        scores: `[Q, N]` of the curvature itself at the shared setting.
        step_scores: The same for every step, by label.
        times: Seconds of each part.
        truth: Retrained models, how many were reused.
    """

    result: Result
    scores: NDArray[np.float64]
    step_scores: dict[str, NDArray[np.float64]]
    times: dict[str, float] = field(default_factory=dict)
    truth: GroundTruth | None = None


class _Clock:
    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times[name] = self.times.get(name, 0.0) + time.perf_counter() - start


def fit_curvature(
    curvature: Curvature,
    task: Task,
    *,
    seed: int = 0,
    last: bool = False,
    progress: Progress | None = None,
) -> tuple[FittedStage, ...]:
    """Every stage of a chain, or its `last` alone; a combination is one stage, the weighted sum."""
    if isinstance(curvature, Chain):
        (stages,) = fit_chains([curvature], task, seed=seed, last=last, progress=progress)
        return stages
    return (fit_combination(curvature, task, seed=seed, progress=progress),)


def fit_solver(
    solver: Solver | None, task: Task, *, seed: int = 0, progress: Progress | None = None
) -> FittedSolver | None:
    """A solver with its preconditioner fitted on the task."""
    if solver is None or solver.preconditioner is None:
        return None if solver is None else FittedSolver(solver)
    found = fit_curvature(solver.preconditioner, task, seed=seed, progress=progress)[-1].operator
    return FittedSolver(solver, found.spectral_form() if found.spectrum_known else found)


def _described(inverse: InverseUse | None, solver: Solver | None) -> str:
    """The inverse as the spec writes it, or as the default stands in the prelude."""
    use = inverse if inverse is not None else default_inverse()
    text = (
        " ".join(use.span.text.split()) if inverse is not None else f"{use.inverse.name} (default)"
    )
    if swept(use):
        text += ": (C + λI)⁻¹" if shift(use.inverse) is not None else ""
    return text if solver is None else f"{text}, solved by {' '.join(solver.span.text.split())}"


def gradients(task: Task, part: str) -> Tensor:
    """Gradients of every example's loss, `[N, P]` for `train`, `[Q, P]` for `query`."""
    found = blocks(task.model, task.train[0][:BATCH])
    pieces = [
        per_example_gradients(task.model, task.loss, x, y, found)
        for x, y in task.batches(BATCH, part)
    ]
    return torch.cat(pieces)


def evaluate_curvature(
    curvature: Curvature,
    task: Task,
    *,
    truth_task: Task | None = None,
    reference: Curvature | None = None,
    inverse: InverseUse | None = None,
    solver: Solver | None = None,
    sweep: Sequence[float] = SWEEP,
    protocol: LDS | None = None,
    seed: int = 0,
    init_seed: int = 0,
    cache: Cache | None = None,
    progress: Progress | None = None,
    version: str = "",
    arguments: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Evaluated:
    """Fit every stage, measure its errors against the reference, and score it by LDS.

    Args:
        curvature: The chain (or combination).
        task: Trained model and data, in the precision of the analysis.
        truth_task: The task in the precision of the retraining; needed with a protocol.
        reference: What errors are measured against; the Hessian where not given.
        inverse: The spec's inverse; None for the default one.
        solver: The spec's solver, for stages without structure.
        sweep: λ grid, for an inverse whose `damping` the spec leaves open.
        protocol: None for no LDS.
        seed: Of sampled labels and sampled gradients.
        init_seed: Of the baseline's initialisation.
        cache: Of ground truth.
        progress: Told what is done.
        version: Printed with the result.
        arguments: The task's parameters, printed.
        notes: Printed below the result.
    """
    clock = _Clock()
    chosen = settings(inverse, sweep)
    task = without_ignored(_compared(curvature, reference, solver), task)
    with clock("fit"):
        stages, goal, goal_label = _fitted(curvature, reference, task, seed, progress)
        fitted = fit_solver(solver, task, seed=seed)
    queries = (protocol.queries if protocol is not None else None) or task.Q
    work = len(chosen) * (queries + GRADIENTS_BY_PRODUCTS) * task.N
    waits = too_long(stages[-1].operator, fitted, work)
    if waits:
        raise SpecError(_no_scores(stages[-1], waits))
    truth = None
    if protocol is not None:
        with clock("ground truth"):
            truth = ground_truth(
                truth_task or task, protocol, init_seed, cache=cache, progress=progress
            )
    with clock("gradients"):
        exact = accumulation_dtype(task.device)
        train, query = (gradients(task, part).to(exact) for part in ("train", "query"))
        known = all(x.spectrum_known for x in (goal, *(s.operator for s in stages)))
        count = GRADIENTS if known else GRADIENTS_BY_PRODUCTS
        sample = train[sampled(task.N, count, seed).to(train.device)]
    limit = protocol.queries if protocol is not None else None
    query = query[:limit] if limit else query
    with clock("scores and errors"):
        measured = measure(stages, goal, chosen, query, train, sample, progress, fitted)
        forwards = [forward_error(s.operator, goal) for s in stages]
    with clock("LDS"):
        judged = _judge(measured, truth, protocol, len(query), progress)
    shared = judged.shared if judged else _plain_shared(chosen, goal)
    steps = _steps(stages, chosen, measured, forwards, judged, shared)
    result = Result(
        name=curvature.name or "curvature",
        version=version,
        reference=goal_label,
        task=_summary(task, arguments or {}),
        inverse=_described(inverse, solver),
        sweep=tuple(s.damping for s in chosen if s.damping is not None),
        protocol=_protocol(protocol, len(query)),
        ceiling=judged.ceiling if judged else None,
        steps=tuple(steps),
        comparisons=judged.comparisons(stages, shared) if judged else (),
        notes=tuple(notes) + _notes(stages),
    )
    last = {
        s.label: m[shared].scores.cpu().numpy()  # type: ignore[union-attr]
        for s, m in zip(stages, measured, strict=True)
        if m[shared].scores is not None
    }
    final = last.get(stages[-1].label)
    if final is None:
        raise SpecError(_no_scores(stages[-1], measured[-1][shared].note))
    return Evaluated(result, final, last, clock.times, truth)


def _compared(
    curvature: Curvature, reference: Curvature | None, solver: Solver | None
) -> list[Chain]:
    """Every chain of an evaluation: all are curvatures of the same parameters."""
    used = [curvature, reference, None if solver is None else solver.preconditioner]
    return [chain for x in used if x is not None for _, chain in weighted_chains(x)]


def _fitted(
    curvature: Curvature,
    reference: Curvature | None,
    task: Task,
    seed: int,
    progress: Progress | None,
) -> tuple[tuple[FittedStage, ...], Operator, str]:
    """Stages of the chain and the reference, which is the first stage where that is the Hessian.

    A sum has no stages of its own: the reference stands in front of it, to be compared with.
    """
    stages = fit_curvature(curvature, task, seed=seed, progress=progress)
    if reference is None and stages[0].label == "hessian":
        return stages, stages[0].operator, "hessian"
    if reference is None:
        from curvlang.language import curvature_named

        reference = curvature_named("hessian")
    label = reference.name
    for stage in stages:
        if stage.label == label:
            return stages, stage.operator, label
    goal = fit_curvature(reference, task, seed=seed, last=True)[-1]
    if not isinstance(curvature, Chain):
        stages = (replace(goal, label=label), *stages)
    return stages, goal.operator, label


def _plain_shared(chosen: Sequence[Setting], goal: Operator) -> int:
    """Without LDS: the λ of the sweep nearest to a tenth of the mean size of an eigenvalue."""
    if len(chosen) == 1 or not goal.spectrum_known:
        return len(chosen) // 2
    target = 0.1 * float(goal.eigenvalues().abs().mean())
    logs = [abs(np.log(s.damping or 1e-300) - np.log(max(target, 1e-300))) for s in chosen]
    return int(np.argmin(logs))


@dataclass(slots=True, eq=False)
class _Judged:
    """LDS of every step at every setting, and the resampled values behind the intervals."""

    estimates: list[list[float | None]]
    intervals: list[list[Interval | None]]
    values: list[list[Tensor | None]]
    constant: list[list[str]]
    ceiling: Interval | None
    shared: int
    level: float

    def comparisons(self, stages: Sequence[FittedStage], shared: int) -> tuple[Comparison, ...]:
        """Each step against the one before it, and the last against the first, all paired."""
        pairs = [(k, k - 1) for k in range(1, len(stages))]
        if len(stages) > 2:
            pairs.append((len(stages) - 1, 0))
        out = []
        for later, earlier in pairs:
            a, b = self.values[later][shared], self.values[earlier][shared]
            x, y = self.estimates[later][shared], self.estimates[earlier][shared]
            if a is None or b is None or x is None or y is None:
                continue
            interval, word = verdict(a - b, x - y, self.level)
            out.append(Comparison(stages[later].label, stages[earlier].label, interval, word))
        return tuple(out)


def _judge(
    measured: list[list[Measured]],
    truth: GroundTruth | None,
    protocol: LDS | None,
    queries: int,
    progress: Progress | None,
) -> _Judged | None:
    if truth is None or protocol is None:
        return None
    outcome = truth.outcome[:, :, :queries]
    effect = -outcome.mean(1).T.contiguous()
    resamples = draw_resamples(len(truth.kept), queries, protocol.bootstrap, protocol.seed + 1)
    level = 0.95
    flat = [
        None if m.scores is None else predictions(m.scores.cpu(), truth.kept)
        for row in measured
        for m in row
    ]
    known = [p for p in flat if p is not None]
    drawn = iter(_in_parts(known, effect, resamples, progress))
    width = len(measured[0])
    values = [None if p is None else next(drawn) for p in flat]
    estimates = [None if p is None else float(spearman(p, effect).mean()) for p in flat]
    intervals = [
        None if v is None or e is None else Interval(e, *percentile_interval(v, level))
        for e, v in zip(estimates, values, strict=True)
    ]

    constant = ["" if p is None else constant_note(p, effect) for p in flat]

    def rows(items: list[Any]) -> list[list[Any]]:
        return [items[k : k + width] for k in range(0, len(items), width)]

    table = rows(estimates)
    scored = [row for row in table if any(x is not None for x in row)]
    means = [
        np.mean([row[k] for row in scored])
        if all(row[k] is not None for row in scored)
        else -np.inf
        for k in range(width)
    ]
    ceiling = noise_ceiling(outcome, resamples, level=level, seed=protocol.seed)
    shared = int(np.argmax(means))
    return _Judged(table, rows(intervals), rows(values), rows(constant), ceiling, shared, level)


def _in_parts(
    known: Sequence[Tensor], effect: Tensor, resamples: Resamples, progress: Progress | None
) -> Iterator[Tensor]:
    """Resampled scores method by method in small groups, so that progress can be shown."""
    for start in range(0, len(known), 5):
        yield from bootstrap_scores(known[start : start + 5], effect, resamples)
        if progress is not None:
            progress("bootstrap", min(start + 5, len(known)), len(known))


def _steps(
    stages: Sequence[FittedStage],
    chosen: Sequence[Setting],
    measured: list[list[Measured]],
    forwards: list[float | None],
    judged: _Judged | None,
    shared: int,
) -> Iterator[Step]:
    forward_shares = list(shares(forwards))
    columns = [_points(measured, judged, k, s) for k, s in enumerate(chosen)]
    for k, stage in enumerate(stages):
        points = tuple(column[k] for column in columns)
        scored = [(p.lds.estimate, at) for at, p in enumerate(points) if p.lds is not None]
        yield Step(
            label=stage.label,
            stage=stage.stage,
            structure=_common_structure(stage.operator),
            structures=dict(stage.structures),
            memory=stage.operator.memory(),
            passes=stage.passes,
            forward=forwards[k],
            forward_share=forward_shares[k],
            points=points,
            best=max(scored)[1] if scored else None,
            shared=shared,
            note="; ".join(
                dict.fromkeys(
                    n for n in (_unformed(stage, forwards[k]), *(p.note for p in points)) if n
                )
            ),
        )


def _unformed(stage: FittedStage, forward: float | None) -> str:
    """Why a stage has no forward error."""
    if forward is not None:
        return ""
    if stage.operator.spectrum_known:
        return "no forward error: the reference is known by products alone"
    return f"no forward error: known by products alone ({stage.operator.size} rows are not formed)"


def _points(
    measured: list[list[Measured]], judged: _Judged | None, k: int, setting: Setting
) -> list[Point]:
    """One setting's points down the chain, with shares of what the chain adds in all."""
    column = [row[k] for row in measured]
    inverse = list(shares([m.inverse for m in column]))
    influence = list(shares([m.influence for m in column]))
    lds = [None if judged is None else judged.intervals[j][k] for j in range(len(column))]
    lds_shares = list(shares([None if x is None else x.estimate for x in lds]))
    constant = ["" if judged is None else judged.constant[j][k] for j in range(len(column))]
    return [
        Point(
            setting.damping,
            m.inverse,
            inverse[j],
            m.influence,
            influence[j],
            m.cosine,
            lds[j],
            lds_shares[j],
            "; ".join(x for x in (m.note, constant[j]) if x),
            m.solve,
        )
        for j, m in enumerate(column)
    ]


def _common_structure(operator: Operator) -> str:
    """The structure's word: that of the blocks where there are any."""
    if isinstance(operator, BlockDiagonal):
        words = dict.fromkeys(_noun(block) for block in operator.blocks)
        return " / ".join(words) + " blocks" if len(words) > 1 else f"{next(iter(words))} blocks"
    return _noun(operator)


def _noun(operator: Operator) -> str:
    """The structure's noun, of a sum those of its terms."""
    match operator:
        case Sum(terms=terms):
            return " + ".join(map(_noun, terms))
        case Scaled(operator=inner):
            return _noun(inner)
        case _:
            return operator.structure


def _summary(task: Task, arguments: Mapping[str, Any]) -> TaskSummary:
    with torch.no_grad():
        train = task.loss.per_example(task.model(task.train[0]), task.train[1])
        outputs = task.model(task.query[0])
        query = task.loss.per_example(outputs, task.query[1])
    accuracy = None
    if task.loss.name == "cross_entropy":
        accuracy = float((outputs.argmax(-1) == task.query[1]).double().mean())
    return TaskSummary(
        name=task.name,
        arguments=dict(arguments),
        model=_describe(task),
        loss=task.loss.name,
        train_examples=task.N,
        query_examples=task.Q,
        parameters=task.P,
        train_loss=float(train.mean()),
        query_loss=float(query.mean()),
        query_accuracy=accuracy,
        recipe=None if task.recipe is None else task.recipe.settings,
        weight_decay=task.weight_decay,
    )


def _describe(task: Task) -> str:
    """Layer widths of a perceptron, else the type's name and how many layers of which type."""
    owners = [m for m in task.model.modules() if any(True for _ in m.parameters(recurse=False))]
    linears = [m for m in owners if isinstance(m, torch.nn.Linear)]
    if isinstance(task.model, torch.nn.Sequential) and linears == owners:
        widths = [linears[0].in_features, *(m.out_features for m in linears)]
        others = {
            type(m).__name__.lower() for m in task.model if not isinstance(m, torch.nn.Linear)
        }
        bias = "" if linears[0].bias is not None else ", no bias"
        return f"MLP {'–'.join(map(str, widths))} {'/'.join(sorted(others))}{bias}"
    counts = Counter(type(m).__name__ for m in owners)
    return f"{type(task.model).__name__} of " + ", ".join(f"{n} {k}" for k, n in counts.items())


def _protocol(protocol: LDS | None, queries: int) -> Protocol | None:
    if protocol is None:
        return None
    return Protocol(
        protocol.subsets,
        protocol.keep,
        protocol.retrains,
        queries,
        protocol.initialisation,
        protocol.seed,
        protocol.bootstrap,
    )


def _notes(stages: Sequence[FittedStage]) -> tuple[str, ...]:
    unknown = [s.label for s in stages if not s.operator.spectrum_known]
    if not unknown:
        return ()
    names = ", ".join(f"`{x}`" for x in unknown)
    return (
        f"the inverse error is averaged over {GRADIENTS_BY_PRODUCTS} gradients: known by products "
        f"alone, too large to form, are {names}",
    )


def _no_scores(stage: FittedStage, reason: str) -> Diagnostic:
    labels = (Label(stage.span, "this stage"),) if stage.span is not NOWHERE else ()
    return Diagnostic(
        "E0506",
        f"`{stage.label}` has no scores at the shared setting: {reason}",
        labels,
        ("use a larger damping, or another inverse",)
        if stage.operator.spectrum_known
        else (
            f"write `evaluate {stage.label} with tikhonov(damping = 0.1) on … {{ solve cg }}` into a "
            "spec; `curvlang eval SPEC --verbose` shows what it took",
        ),
    )


__all__ = ["Evaluated", "evaluate_curvature", "fit_curvature", "gradients", "replace"]
