"""What a user does in Python: load a spec, fit it, score with it, evaluate it, explain it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from curvlang.attribution.influence import influence, self_influence
from curvlang.attribution.top import top
from curvlang.compiler.explain.explain import Explanation
from curvlang.compiler.explain.explain_sum import explain_sum
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.evaluate import evaluate_curvature
from curvlang.evaluation.protocol import LDS, SWEEP
from curvlang.evaluation.request_checks import check_asked, sweep_of
from curvlang.evaluation.study.cell import Machine
from curvlang.evaluation.study.files import CellFolder
from curvlang.evaluation.study.result import StudyResult
from curvlang.evaluation.study.run import gather, quick, run_missing, work_of
from curvlang.language import (
    curvature_named,
    declared_inverses,
    load,
    load_study,
    loads,
    no_curvature,
)
from curvlang.language.chain import Chain, Combination, Curvature, Evaluation, Spec
from curvlang.language.sums import sum_text, weighted_chains
from curvlang.models.execution.torch_state import settled
from curvlang.models.losses.metric import Metric
from curvlang.models.task import Task, check_task
from curvlang.reporting.progress import Bars
from curvlang.reporting.provenance import provenance
from curvlang.reporting.report import Report, Run, report
from curvlang.reporting.study.folder import check_study_folder, write_study
from curvlang.runtime.combine import fit_curvature, fit_solver
from curvlang.runtime.fit import Progress
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.footprint import reads_hessian
from curvlang.runtime.limits.memory import Memory, limited
from curvlang.runtime.others import without_ignored
from curvlang.runtime.prepare import Prepared, model_flops, prepare
from curvlang.storage.cache import Cache
from curvlang.version import VERSION


def as_spec(spec: Spec | str | Path) -> Spec:
    """A spec, from itself, a path, or the name of one that ships."""
    return spec if isinstance(spec, Spec) else load(spec)


def chosen(spec: Spec, curvature: str | None = None) -> Curvature:
    """The curvature of a spec: the one named, else the one evaluated last, else the last one.

    Raises:
        SpecError: E0206 where the spec defines none of that name, or none at all.
    """
    evaluated = [e.curvature for e in spec.evaluations]
    name = curvature or next(reversed([*spec.curvatures, *evaluated]), None)
    if name is not None and name in evaluated:
        return curvature_named(name, spec)
    if name is None or name not in spec.curvatures:
        raise no_curvature(spec, curvature)
    return spec.curvatures[name]


def evaluation_of(spec: Spec, curvature: Curvature) -> Evaluation | None:
    """What the spec says about evaluating a curvature."""
    return next((e for e in reversed(spec.evaluations) if e.curvature == curvature.name), None)


@settled
def fit(
    spec: Spec | str | Path,
    task: Task,
    *,
    curvature: str | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    memory: Memory = None,
    progress: Progress | None = None,
) -> FittedOperator:
    """Fit a spec's curvature on a task.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: Model, loss and data.
        curvature: Which of the spec's curvatures; where not given the one evaluated last, or the
            last one.
        seed: Of sampled labels.
        dtype: Precision of the passes over the data; the task's where not given. Sums of statistics, and
            what follows from them, are in float64 on a processor whatever it is.
        memory: What the fit may hold, `"2 GiB"` or bytes; what is free where not given.
        progress: Told what is done; shown on standard error where not given.

    Returns:
        A structured operator on all P parameters, in the order of `task.parameters`.
    """
    check_task(task)
    check_asked(seed=seed, dtype=dtype, curvature=curvature)
    whole = as_spec(spec)
    found = chosen(whole, curvature)
    evaluation = evaluation_of(whole, found)
    if dtype is not None:
        task = task.to(dtype=dtype)
    rule = evaluation.inverse if evaluation is not None else None
    solver = evaluation.solver if evaluation is not None else None

    def run(told: Progress) -> FittedOperator:
        seen = without_ignored(chains_of(found), task)
        stage = fit_curvature(found, seen, seed=seed, last=True, progress=told)[-1]
        solved = fit_solver(solver, seen, seed=seed, progress=told)
        return FittedOperator(
            stage.operator,
            seen.parameters,
            rule,
            stage.label,
            solved,
            stage.by_example,
            declared_inverses(whole),
        )

    with limited(memory), Bars() as bars:
        return task.retried(lambda: run(progress or bars))


@settled
def evaluate(
    spec: Spec | str | Path,
    task: Task,
    *,
    protocol: LDS | None = None,
    metric: str | Metric = "loss",
    curvature: str | None = None,
    damping: float | Sequence[float] = SWEEP,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    cache: Cache | None = None,
    memory: Memory = None,
    progress: Progress | None = None,
) -> Report:
    """Error and influence of every step of a spec's chain, and LDS where a protocol is given.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: A trained model with its data; LDS needs its `build` and `recipe`.
        protocol: How to retrain; None for no LDS.
        metric: What the queries are asked for, in scores and after retraining.
        curvature: Which of the spec's curvatures.
        damping: λ of the default inverse, or several.
        seed: Of sampled labels and gradients.
        dtype: Precision of the analysis; the retraining keeps the task's own.
        cache: Where retrained models are kept.
        memory: What the fit may hold; what is free where not given.
        progress: Told what is done; shown on standard error where not given.
    """
    check_task(task)
    check_asked(seed=seed, dtype=dtype, protocol=protocol, curvature=curvature)
    sweep = sweep_of(damping)
    whole = as_spec(spec)
    found = chosen(whole, curvature)
    evaluation = evaluation_of(whole, found)
    inverse = evaluation.inverse if evaluation is not None else None
    reference = None
    if evaluation is not None and evaluation.error_against is not None:
        reference = curvature_named(evaluation.error_against, whole)
    with limited(memory), Bars() as bars:
        analysed = task.to(dtype=dtype)
        done = evaluate_curvature(
            found,
            analysed,
            truth_task=task,
            reference=reference,
            inverse=inverse,
            solver=evaluation.solver if evaluation is not None else None,
            sweep=sweep,
            protocol=protocol,
            metric=metric,
            seed=seed,
            cache=cache,
            progress=progress or bars,
            version=VERSION,
        )
    if done.truth is not None and done.truth.damaged:
        warnings.warn(
            f"damaged files of the cache, not used: {len(done.truth.damaged)}; their models were "
            "trained again",
            stacklevel=2,
        )
    left = provenance(done, whole, analysed, protocol=protocol, metric=metric, seed=seed)
    run = Run(done.scores, done.step_scores, whole.source.text, left, done.times)
    return report(done.result, run)


@settled
def explain(
    spec: Spec | str | Path, task: Task, *, curvature: str | None = None, memory: Memory = None
) -> Explanation:
    """The plan of a spec on a task: structure, passes, contractions, costs, code. Printable.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: Model, loss and data.
        curvature: Which of the spec's curvatures.
        memory: What the fit may hold; what is free where not given.
    """
    check_task(task)
    found = chosen(as_spec(spec), curvature)
    task = without_ignored(chains_of(found), task)
    with limited(memory):
        prepared, model = _explained(list(chains_of(found)), task, isinstance(found, Combination))
    last = [results[-1] for results in prepared.chains]
    return Explanation(
        prepared.plans,
        prepared.chains,
        f"{found.name} on {task!r}",
        model,
        {phase.name: phase.parts for phase in prepared.phases},
        explain_sum(sum_text(found), last, prepared.plans)
        if isinstance(found, Combination)
        else (),
    )


def _explained(chains: list[Chain], task: Task, last: bool) -> tuple[Prepared, Mapping[str, int]]:
    """The plans of every step, and what the model itself costs.

    Of the last step alone where the model has no Hessian, which steps before it need and it does not.
    """
    prepared = prepare(chains, task, last=last)
    try:
        return prepared, model_flops(prepared, task)
    except SpecError:
        alone = prepare(chains, task, last=True)
        if any(map(reads_hessian, alone.plans)):
            raise
        return alone, model_flops(alone, task)


compile_spec = explain
"""The plan is what compiling gives; `str(plan)` is its explanation."""


@settled
def study(
    spec: str | Path,
    folder: str | Path | None = None,
    *,
    small: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    cache: Cache | None = None,
    allow_python: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> StudyResult:
    """Run a study, or go on with it, and return what it found.

    Args:
        spec: A path, `path.cv:name`, or the name of a study that ships; the file has one study, or
            one is named.
        folder: The run folder, where finished cells are kept and the report is written; without one
            nothing is kept but the ground truth in the cache.
        small: One model a cell and a small protocol, as `--quick`.
        device: Where it runs.
        dtype: Precision of the analysis.
        cache: Where retrained models are kept.
        allow_python: Whether functions that the spec names may be called.
        progress: Told what is done.
    """
    whole, found = load_study(str(spec))
    asked = quick(found) if small else found
    machine = Machine(torch.device(device), dtype, cache, allow_python=allow_python)
    work = work_of(asked, machine, small=small)
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            store = CellFolder(Path(place))
            run_missing(asked, work, store, machine, progress=progress)
            return gather(asked, work, store)
    place_ = Path(folder)
    check_study_folder(place_)
    store = CellFolder(place_)
    run_missing(asked, work, store, machine, progress=progress)
    result = gather(asked, work, store)
    write_study(place_, result, whole.source.text)
    return result


def chains_of(curvature: Curvature) -> tuple[Chain, ...]:
    """The chains that a curvature is made of."""
    return tuple(chain for _, chain in weighted_chains(curvature))


def lds_of(scores: Any, kept: Any, outcome: Any, **options: Any) -> Any:
    """See `curvlang.evaluation.statistics.lds.lds`."""
    from curvlang.evaluation.statistics.lds import lds

    return lds(scores, kept, outcome, **options)


__all__ = [
    "as_spec",
    "chains_of",
    "chosen",
    "evaluate",
    "explain",
    "fit",
    "influence",
    "load",
    "loads",
    "self_influence",
    "study",
    "top",
]
