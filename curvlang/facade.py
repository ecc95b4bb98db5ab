"""What a user does in Python: load a spec, fit it, score with it, evaluate it, explain it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

import torch

from curvlang.attribution.formulas.curvatures import fits_elsewhere
from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.attribution.influence import influence, self_influence
from curvlang.attribution.streams.top_examples import top_examples
from curvlang.attribution.top import top
from curvlang.compiler.explain.explain import Explanation
from curvlang.compiler.explain.explain_sum import explain_sum
from curvlang.compiler.explain.score_plan import ScorePlan, score_plan
from curvlang.costs import benchmark as costs
from curvlang.costs.forecast import seconds_of_fit
from curvlang.costs.links import processes_of
from curvlang.diagnostics.diagnostic import MachineError
from curvlang.diagnostics.plain_arguments import argument, validated
from curvlang.evaluation.experiment import experiment
from curvlang.evaluation.preflight import check
from curvlang.evaluation.protocol import LDS, SWEEP
from curvlang.evaluation.question import Run, Wording, question_of, reworded
from curvlang.evaluation.request_checks import check_swept, sweep_of
from curvlang.language import declared, inverse_text, load, loads
from curvlang.language.chain import Chain, Combination, Curvature, Evaluation, Spec, TaskSpec
from curvlang.language.selection import chains_of, chosen, evaluation_of
from curvlang.language.sums import sum_text
from curvlang.language.task_sources import TaskSource
from curvlang.models.builtin import is_trained, task_from
from curvlang.models.execution.precision import KINDS, PrecisionLike, agreed
from curvlang.models.execution.torch_state import settled, settled_state
from curvlang.models.task import Task, check_task
from curvlang.models.task_products import products_of_passes
from curvlang.models.tracing.coverage import coverage
from curvlang.reporting.costs import CostReport
from curvlang.reporting.coverage import CoverageReport
from curvlang.reporting.provenance import provenance
from curvlang.reporting.report import Report, report_of
from curvlang.reporting.scaling import scaling_report
from curvlang.reporting.scoring import scoring_report
from curvlang.runtime.combine import fit_curvature, fit_solver
from curvlang.runtime.fit import FittedStage
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.footprint import reads_hessian
from curvlang.runtime.limits.memory import Memory, limited
from curvlang.runtime.limits.turns import results_on_disk
from curvlang.runtime.others import misfits, without_ignored, words_apart
from curvlang.runtime.passes.entries import fit_limits
from curvlang.runtime.prepare import Preparation, model_flops, prepare, way_of
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption
from curvlang.runtime.setup import Setup, Workers
from curvlang.runtime.solver import FittedSolver
from curvlang.runtime.stored.session import kept_in
from curvlang.runtime.stored.uses import keep_operator, use_of
from curvlang.storage.cache import Cache
from curvlang.workers.hire import executor_of


def as_spec(spec: Spec | str | Path) -> Spec:
    """A spec, from itself, a path, or the name of one that ships."""
    return spec if isinstance(spec, Spec) else load(spec)


@settled
def fit(
    spec: Spec | str | Path,
    task: Task,
    *,
    curvature: str | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    precision: PrecisionLike | None = None,
    memory: Memory = None,
    store: str | os.PathLike[str] | None = None,
    progress: ProgressOption = True,
) -> FittedOperator:
    """Fit a spec's curvature on a task.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: Model, loss and data.
        curvature: Which of the spec's curvatures; where not given the one evaluated last, or the
            last one.
        seed: Of sampled labels.
        dtype: Precision of the passes over the data, by its older name.
        precision: What passes and decompositions are computed in, `"bfloat16"` or
            `"passes=bfloat16,decompositions=float32"`; where not given the task's own, and decompositions
            in float64. Sums of statistics are in float64 on a processor whatever it is.
        memory: What the fit may hold, `"2 GiB"` or bytes; what is free where not given.
        store: A folder that keeps the fit: what is there is not computed again, also by a run that was
            interrupted or with another number of processes. Blocks are mapped from their files.
        progress: Shown on standard error; `False` for nothing, or a function that is called as work
            proceeds (`curvlang.runtime.progress`).

    Returns:
        A structured operator on all P parameters, in the order of `task.parameters`.

    Raises:
        SpecError: E0835 for a store of something else, E0836 to E0838 for one that cannot be used,
            E0840 for a fit that cannot be kept, E0875 to E0878 for a precision that cannot be had.
        MachineError: E0801 for a fit that does not fit into memory, E0841 and E0802 for one that the disk
            has no space for.
    """
    check_task(task)
    seed, curvature = argument("seed", seed), argument("curvature", curvature)
    if dtype not in (None, task.dtype, torch.bfloat16):
        argument("dtype", dtype)
    policy = agreed(precision, dtype if dtype in KINDS.values() else None, device=task.device)
    whole = as_spec(spec)
    found = chosen(whole, curvature)
    said = evaluation_of(whole, found)
    if policy is not None:
        task = task.to(precision=policy)
    chains = chains_of(found)

    def at(tasks: Sequence[Task], told: Progress | None) -> FittedOperator:
        rule = said.inverse if said and store is None else None
        limits = fit_limits(rule, found)
        stage = fit_curvature(found, tasks, seed=seed, last=True, progress=told, limits=limits)[-1]
        solved = fit_solver(said.solver, tasks, seed=seed, progress=told) if said else None
        return fitted_as_said(whole, found, tasks[0], stage, solved)

    def elsewhere(tasks: Sequence[Task]) -> FittedOperator:
        use = partial(use_of, whole, found, task, seed)
        with kept_in(store, lambda: replace(use(), seen=tuple(tasks), alone=False)):
            return at(tasks, None)

    def run(told: Progress | None) -> FittedOperator:
        return at([without_ignored(chains, task)], told).replaced(refit=elsewhere)

    with (
        limited(memory),
        products_of_passes(task),
        kept_in(store, partial(use_of, whole, found, task, seed)) as session,
        shown(progress, "cv.fit", store=store, forecast=seconds_of_fit) as told,
    ):
        op = task.retried(lambda: run(told))
        if session is not None:
            keep_operator(session, op, found, task, seed)
        return op


def fitted_as_said(
    spec: Spec, curvature: Curvature, seen: Task, stage: FittedStage, solver: FittedSolver | None
) -> FittedOperator:
    """A fitted curvature with what its spec says of inverses.

    Args:
        spec: The spec.
        curvature: Its curvature.
        seen: The task as the curvature sees it.
        stage: What was fitted, or is planned.
        solver: The spec's, with its preconditioner.
    """
    said = evaluation_of(spec, curvature)
    return FittedOperator(
        stage.operator,
        seen.parameters,
        None if said is None else said.inverse,
        stage.label,
        solver,
        stage.by_example,
        declared(spec),
        None if said is None else said.score,
    )


@settled
@validated
def evaluate(
    spec: Spec | str | Path,
    task: Task,
    *,
    protocol: LDS | None = None,
    curvature: str | None = None,
    damping: float | Sequence[float] = SWEEP,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    precision: PrecisionLike | None = None,
    cache: Cache | None = None,
    memory: Memory = None,
    workers: Workers = None,
    progress: ProgressOption = True,
    **words: Unpack[Wording],
) -> Report:
    """Error and influence of every step of a spec's chain, and LDS where a protocol is given.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: A trained model with its data; LDS needs its `build` and `recipe`.
        protocol: How to retrain; None for no LDS.
        curvature: Which of the spec's curvatures.
        damping: λ of the inverses that leave it open, as the default one does; or several.
        seed: Of sampled labels and gradients.
        dtype: Precision of the analysis, by its older name.
        precision: What passes, decompositions and products are computed in; float64 where not given. The
            retraining keeps the task's own.
        cache: Where retrained models are kept.
        memory: What the fit may hold; what is free where not given.
        workers: Workers of Dask that retrain the models: how many are started here, or the address of a
            scheduler that has some.
        progress: Shown on standard error; `False` for nothing, or a function that is called as work
            proceeds (`curvlang.runtime.progress`).
        **words: In place of what the spec says, or beside it: `metric` (what the queries are asked for, in
            scores and after retraining), `reference` (the curvature that errors are measured
            against), `inverse` (one, or several: the report's `run.others` has the results under
            the further ones), `solve`, and the `baselines` and `measures` of a study.

    Raises:
        SpecError: Where something cannot be evaluated; before anything is fitted or retrained where
            that can be known.
    """
    check_task(task)
    whole = as_spec(spec)
    changes = {"sweep": sweep_of(damping), **reworded(whole, words)}
    question = question_of(whole, chosen(whole, curvature), **changes)
    check_swept(damping, question.inverses, named="inverses" in changes)
    setup = Setup(task.device, dtype, memory, seed, workers=workers, precision=precision)
    with limited(memory), shown(progress, "cv.evaluate") as told, executor_of(workers) as executor:
        run = Run(setup, protocol, cache, told, executor=executor)
        plan = check(question, task, run)
        done = experiment(question, task, run, plan)
    if done.truth is not None and done.truth.damaged:
        warnings.warn(
            f"damaged files of the cache, not used: {len(done.truth.damaged)}; their models were "
            "trained again",
            stacklevel=2,
        )
    left = provenance(done, whole, run, question.metric)
    return report_of(done, whole, left)


@settled
@validated
def explain(
    spec: Spec | str | Path,
    task: Task,
    *,
    curvature: str | None = None,
    memory: Memory = None,
    world: int | None = None,
    link: str | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Explanation:
    """The plan of a spec on a task: structure, passes, contractions, costs, code. Printable.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: Model, loss and data.
        curvature: Which of the spec's curvatures.
        memory: What the fit may hold; what is free where not given.
        world: A number of processes: also what the fit and all scores will take on so many, each as
            fast as this machine, which is measured for it.
        link: How fast they reach each other: `"100GB/s"`, `"10Gb/s"` in bits.
        store: Where the results will lie: they then take no memory.

    Raises:
        SpecError: E0860, E0861 for a `link` that is not a rate, a `world` that is not a number of processes.
    """
    check_task(task)
    processes = None if world is None else processes_of(world, link)
    found = chosen(as_spec(spec), curvature)
    said = evaluation_of(as_spec(spec), found)
    task = without_ignored(chains_of(found), task)
    with limited(memory), results_on_disk(store is not None):
        wanted = None if processes is None else scaling_report(found, said, task, processes)
        prepared, model = _explained(list(chains_of(found)), task, isinstance(found, Combination))
        scoring = scoring_report(said, prepared, task)
    last = [results[-1] for results in prepared.chains]
    return Explanation(
        prepared.plans,
        prepared.chains,
        f"{found.name} on {task!r}",
        model,
        {phase.name: phase.parts for phase in prepared.phases},
        (
            *_padded(prepared, task),
            *_turns(prepared),
            *(
                explain_sum(sum_text(found), last, prepared.plans)
                if isinstance(found, Combination)
                else ()
            ),
        ),
        wanted,
        _score_plan(said, task),
        scoring,
    )


def _score_plan(said: Evaluation | None, task: Task) -> ScorePlan | None:
    """The plan of the score that an evaluation names."""
    if said is None or said.score is None:
        return None
    refits = fits_elsewhere(program_of(said.score), task)
    return score_plan(said.score, {"q": task.Q, "n": task.N, "p": task.P}, refits)


def _padded(prepared: Preparation, task: Task) -> Iterator[str]:
    """What becomes of the training examples' padding, where they have some."""
    padding = task.padding()
    if padding is not None:
        yield padding.in_words(whole=prepared.whole)


def _turns(prepared: Preparation) -> Iterator[str]:
    """What blocks in turns cost, where they do not fit together."""
    count = len(prepared.turns)
    if count:
        passes = max(p.passes for p in prepared.plans)
        yield (
            f"the blocks take turns, since their statistics do not fit together: {count} groups, "
            f"each with passes of its own, {count * passes} over the data in place of {passes}"
        )


def _explained(
    chains: list[Chain], task: Task, last: bool
) -> tuple[Preparation, Mapping[str, int]]:
    """The plans of every step, and what the model itself costs.

    Of the last step alone where steps before it need a Hessian and the model has none.
    """
    try:
        prepared = prepare(chains, task, last=last)
    except MachineError:
        # Steps on the way may need more than there is: what is fitted is the last one alone.
        prepared, last = prepare(chains, task, last=True), True
    way = None
    if not last and any(map(reads_hessian, prepared.plans)):
        way = way_of(task)
        if way is None:
            prepared = prepare(chains, task, last=True)
    return prepared, model_flops(prepared, task, way)


@validated
def explanations(
    spec: Spec | str | Path,
    source: TaskSource | None = None,
    setup: Setup | None = None,
    *,
    world: int | None = None,
    link: str | None = None,
) -> Iterator[Explanation]:
    """The plan of every curvature that a spec defines, each on the task that the spec names for it.

    Args:
        spec: A spec, a path, or the name of one that ships.
        source: What replaces the task, or lines of it.
        setup: Device, precision and memory.
        world: A number of processes that the run is predicted for.
        link: How fast they reach each other.

    Raises:
        SpecError: With every problem of the spec and the task; as `explain` for `world` and `link`.
    """
    whole, setup = as_spec(spec), setup or Setup()
    if world is not None:
        processes_of(world, link)
    defined = [*whole.curvatures] or [*dict.fromkeys(e.curvature for e in whole.evaluations)]
    names: list[str | None] = [*defined] or [None]
    for name in names:
        with settled_state():
            task = _described(whole, chosen(whole, name), source, setup)
        yield explain(
            whole,
            task,
            curvature=name,
            memory=setup.memory,
            world=world,
            link=link,
            store=setup.store,
        )


@settled
@validated
def benchmark(
    spec: Spec | str | Path,
    task: Task | TaskSource | None = None,
    *,
    inverse: str | None = None,
    setup: Setup | None = None,
) -> CostReport:
    """Fit, invert and score once: time and memory of every stage beside their prediction.

    The model is not trained: its cost does not depend on its parameters.

    Args:
        spec: A spec, a path, or the name of one that ships.
        task: Model and data; or what replaces the task that the spec names, or lines of it.
        inverse: An inverse as a spec writes it; the spec's where not given.
        setup: Device, precision, memory and seed.

    Raises:
        SpecError: With every problem of the spec and the task; E0875 to E0878 for a precision that cannot be had.
        MachineError: E0801 for a fit that does not fit into memory.
    """
    whole, setup = as_spec(spec), setup or Setup()
    found = chosen(whole)
    evaluation = evaluation_of(whole, found)
    if not isinstance(task, Task):
        task = _described(whole, found, task, setup)
    use = evaluation.inverse if evaluation is not None else None
    with limited(setup.memory):
        return CostReport(
            costs.benchmark(
                found,
                task.to(precision=setup.policy),
                inverse=use if inverse is None else inverse_text(inverse, "<inverse>"),
                solver=evaluation.solver if evaluation is not None else None,
                seed=setup.seed,
            )
        )


@settled
@validated
def covered(specs: Sequence[Spec], source: TaskSource) -> CoverageReport:
    """The parameters of a task's model, by name and by layer type, and the stages that do not fit them.

    The model is built and its first gradients are computed; nothing is trained.

    Args:
        specs: Whose curvatures are tried; the first one's file may define the task.
        source: The task, or lines of it.

    Raises:
        SpecError: With every problem of the task's texts; E0550 for a function that is not allowed.
    """
    wanted = source.within(specs[0])
    chains = [c for x in specs for found in x.curvatures.values() for c in chains_of(found)]
    task = words_apart(chains, task_from(wanted, allow_python=source.allow_python))
    found, problems = coverage(task.model, task), misfits(chains, task)
    return CoverageReport(repr(task), found, is_trained(wanted), tuple(problems))


def _described(spec: Spec, curvature: Curvature, source: TaskSource | None, setup: Setup) -> Task:
    """The task that a spec names for a curvature, its model not trained, in the setup's precision."""
    return named_task(spec, curvature, source, setup)[1].to(precision=setup.policy)


def named_task(
    spec: Spec, curvature: Curvature, source: TaskSource | None, setup: Setup
) -> tuple[TaskSpec, Task]:
    """The task that a spec names for a curvature: its description, and itself with an untrained model.

    Args:
        spec: The spec.
        curvature: Its curvature.
        source: What replaces the task, or lines of it.
        setup: Device and seed.

    Raises:
        SpecError: With every problem of the description; E0563 for a source of another type.
    """
    source = argument("source", source) or TaskSource()
    wanted = source.of(evaluation_of(spec, curvature))
    task = task_from(wanted, seed=setup.seed, device=setup.device, allow_python=source.allow_python)
    return wanted, task


__all__ = [
    "as_spec",
    "benchmark",
    "chains_of",
    "chosen",
    "covered",
    "evaluate",
    "explain",
    "explanations",
    "fit",
    "influence",
    "load",
    "loads",
    "self_influence",
    "top",
    "top_examples",
]
