"""The evaluation of a chain: what each step costs, in structure, error and attribution quality."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import NOWHERE
from curvlang.evaluation.fidelity import (
    Scoring,
    Setting,
    forward_errors,
    measure,
    scores_at,
    settings,
    too_long,
)
from curvlang.evaluation.ground_truth import GroundTruth, ground_truth
from curvlang.evaluation.judge import judge
from curvlang.evaluation.left_out import kept_prefixes, left_out, notes_of
from curvlang.evaluation.protocol import GRADIENTS_BY_PRODUCTS, LDS, SWEEP
from curvlang.evaluation.result import Result
from curvlang.evaluation.steps import steps_of
from curvlang.evaluation.summary import protocol_as_run, summary
from curvlang.language import default_inverse, swept
from curvlang.language.chain import Chain, Curvature, InverseUse, Solver
from curvlang.language.checking.inverses import shift
from curvlang.language.sums import weighted_chains
from curvlang.models.losses.metric import Metric, QueryMetric, query_metric_on
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.combine import fit_curvature, fit_solver
from curvlang.runtime.fit import FittedStage, Progress, fit_chains
from curvlang.runtime.others import without_ignored
from curvlang.storage.cache import Cache


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


class Clock:
    """Seconds by name of what was done under it."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a name."""
        start = time.perf_counter()
        yield
        self.times[name] = self.times.get(name, 0.0) + time.perf_counter() - start


def described(inverse: InverseUse | None, solver: Solver | None) -> str:
    """The inverse as the spec writes it, or as the default stands in the prelude."""
    use = inverse if inverse is not None else default_inverse()
    text = (
        " ".join(use.span.text.split()) if inverse is not None else f"{use.inverse.name} (default)"
    )
    if swept(use):
        text += ": (C + λI)⁻¹" if shift(use.inverse) is not None else ""
    return text if solver is None else f"{text}, solved by {' '.join(solver.span.text.split())}"


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
    metric: str | Metric = "loss",
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
        metric: What the queries are asked for, in scores and after retraining.
        seed: Of sampled labels and sampled gradients.
        init_seed: Of the baseline's initialisation.
        cache: Of ground truth.
        progress: Told what is done.
        version: Printed with the result.
        arguments: The task's parameters, printed.
        notes: Printed below the result.
    """
    clock = Clock()
    chosen = settings(inverse, sweep)
    asked = query_metric_on(metric, task)
    task = without_ignored(_compared(curvature, reference, solver), task)
    with clock("fit"):
        without = left_out(curvature, reference, task)
        stages, goal, goal_label = _fitted(curvature, reference, task, seed, progress, without)
        fitted = fit_solver(solver, task, seed=seed)
    queries = (protocol.queries if protocol is not None else None) or task.Q
    work = len(chosen) * (queries + GRADIENTS_BY_PRODUCTS) * task.N
    waits = too_long(stages[-1].operator, fitted, work)
    if waits:
        raise _no_scores(stages[-1], waits)
    truth = None
    if protocol is not None:
        with clock("ground truth"):
            truth = ground_truth(
                truth_task or task,
                protocol,
                init_seed,
                metric=metric,
                cache=cache,
                progress=progress,
            )
            protocol = replace(protocol, subsets=len(truth.kept))
    given = Scoring(
        task=task,
        cost=asked.cost,
        chosen=chosen,
        queries=None if protocol is None else protocol.queries,
        seed=seed,
        solver=fitted,
        kept=None if truth is None else truth.kept,
        shared=None if truth is not None else plain_shared(chosen, goal),
        progress=progress,
    )
    with clock("scores and errors"):
        measured = measure(stages, goal, given)
        forwards = forward_errors(stages, goal, given)
    with clock("LDS"):
        judged = judge(measured, truth, protocol, given.rows, progress)
    shared = judged.shared if judged else plain_shared(chosen, goal)
    steps = steps_of(stages, chosen, measured, forwards, judged, shared, len(stages))
    result = Result(
        name=curvature.name or "curvature",
        version=version,
        reference=goal_label,
        task=summary(task, arguments or {}),
        inverse=described(inverse, solver),
        sweep=tuple(s.damping for s in chosen if s.damping is not None),
        protocol=protocol_as_run(protocol, given.rows),
        ceiling=judged.ceiling if judged else None,
        steps=tuple(steps),
        comparisons=judged.comparisons(stages, shared) if judged else (),
        notes=tuple(notes)
        + _metric_notes(asked)
        + notes_of(without, goal_label)
        + product_notes(stages)
        + tuple(dict.fromkeys(stage.note for stage in stages if stage.note)),
    )
    last = {
        s.label: scores.cpu().numpy()
        for s, scores in zip(stages, scores_at(measured, shared), strict=True)
        if scores is not None
    }
    final = last.get(stages[-1].label)
    if final is None:
        raise _no_scores(stages[-1], measured[-1][shared].note)
    return Evaluated(result, final, last, clock.times, truth)


def _metric_notes(asked: QueryMetric) -> tuple[str, ...]:
    """What a positive score and a good subset mean, where it is not the loss."""
    if asked.name == "loss":
        return ()
    return (f"queries are asked for their {asked.name}: positive where {asked.sign}",)


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
    without: Mapping[str, str],
) -> tuple[tuple[FittedStage, ...], Operator, str]:
    """Stages of the chain and the reference, which is the first stage where that is the Hessian.

    A sum has no stages of its own: the reference stands in front of it, to be compared with. Where
    steps are left out, the first one that is kept is the reference, unless one is named.
    """
    if without and isinstance(curvature, Chain):
        prefixes = kept_prefixes(curvature, without)
        found = fit_chains(prefixes, task, seed=seed, last=True, progress=progress)
        stages = tuple(one[-1] for one in found)
    else:
        stages = fit_curvature(curvature, task, seed=seed, progress=progress)
    if reference is None and (without or stages[0].label == "hessian"):
        return stages, stages[0].operator, stages[0].label
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


def plain_shared(chosen: Sequence[Setting], goal: Operator) -> int:
    """Without LDS: the λ of the sweep nearest to a tenth of the mean size of an eigenvalue."""
    if len(chosen) == 1 or not goal.spectrum_known:
        return len(chosen) // 2
    target = 0.1 * float(goal.eigenvalues().abs().mean())
    logs = [abs(np.log(s.damping or 1e-300) - np.log(max(target, 1e-300))) for s in chosen]
    return int(np.argmin(logs))


def product_notes(stages: Sequence[FittedStage]) -> tuple[str, ...]:
    """What is said of stages that are known by their products alone."""
    unknown = [s.label for s in stages if not s.operator.spectrum_known]
    if not unknown:
        return ()
    names = ", ".join(f"`{x}`" for x in unknown)
    return (
        f"the inverse error is averaged over {GRADIENTS_BY_PRODUCTS} gradients: known by products "
        f"alone, too large to form, are {names}",
    )


def _no_scores(stage: FittedStage, reason: str) -> SpecError:
    labels = (Label(stage.span, "this stage"),) if stage.span is not NOWHERE else ()
    return refusal(
        Code.E0506,
        f"`{stage.label}` has no scores at the shared setting: {reason}",
        *(
            ("use a larger damping, or another inverse",)
            if stage.operator.spectrum_known
            else (
                f"write `evaluate {stage.label} with tikhonov(damping = 0.1) on … {{ solve cg }}` into a "
                "spec; `curvlang eval SPEC --verbose` shows what it took",
            )
        ),
        labels=labels,
    )
