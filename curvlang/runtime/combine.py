"""Sums and multiples of curvatures: all terms fitted in one run over the data, added block by block.

What is combined is the curvature of the mean loss. The task's L2 term λ·I is added to the sum once
and exactly, whatever the weights; a sum that writes it, as `mine + weight_decay * identity` does,
has said what it wants, and nothing is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curvlang.compiler.planning.plan import Limits
from curvlang.compiler.planning.planner import DEFAULT
from curvlang.language.chain import Chain, Combination, Curvature, Solver
from curvlang.language.sums import DECAY, states_decay, sum_text, weighted_chains
from curvlang.models.task import Task
from curvlang.operators import ExampleMean, added, described, scaled
from curvlang.runtime.fit import FittedStage, fit_chains, fit_losses
from curvlang.runtime.guard import check_magnitude
from curvlang.runtime.passes.entries import gradients_of
from curvlang.runtime.progress.listeners import Progress
from curvlang.runtime.solver import FittedSolver
from curvlang.runtime.static import regularised


def fit_combination(
    curvature: Combination,
    task: Task | Sequence[Task],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    limits: Limits = DEFAULT,
) -> FittedStage:
    """The weighted sum of the last stages of its chains, as one stage.

    Args:
        curvature: The combination; sums inside sums are multiplied out.
        task: Model, loss and data, or the task at several models, as `fit_chains` takes them.
        seed: Seeds the sampled labels of every pass.
        progress: Called after every batch.
        limits: Of the plan.
    """
    terms = list(weighted_chains(curvature))
    chains = [chain for _, chain in terms]
    fitted = fit_losses(chains, task, seed=seed, last=True, progress=progress, limits=limits)
    last = [stages[-1] for stages in fitted]
    tasks = [task] if isinstance(task, Task) else task
    one = tasks[0]
    values = {DECAY: one.weight_decay}
    parts = [
        scaled(weight.value(values), stage.operator)
        for (weight, _), stage in zip(terms, last, strict=True)
    ]
    whole = added(parts)
    if not states_decay(curvature):
        whole = regularised(whole, one)
    check_magnitude(whole, curvature.name, curvature.span)
    return FittedStage(
        curvature.name,
        sum_text(curvature),
        whole,
        dict(described(whole)),
        max(stage.passes for stage in last),
        curvature.span,
        ExampleMean(one.N, None, gradients_of(tasks)),
        note=next((stage.note for stage in last if stage.note), ""),
    )


def fit_curvature(
    curvature: Curvature,
    task: Task | Sequence[Task],
    *,
    seed: int = 0,
    last: bool = False,
    progress: Progress | None = None,
    limits: Limits = DEFAULT,
) -> tuple[FittedStage, ...]:
    """Every stage of a chain, or its `last` alone; a combination is one stage, the weighted sum."""
    if isinstance(curvature, Chain):
        (stages,) = fit_chains(
            [curvature], task, seed=seed, last=last, progress=progress, limits=limits
        )
        return stages
    return (fit_combination(curvature, task, seed=seed, progress=progress, limits=limits),)


def fit_solver(
    solver: Solver | None,
    task: Task | Sequence[Task],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> FittedSolver | None:
    """A solver with its preconditioner fitted on the task."""
    if solver is None or solver.preconditioner is None:
        return None if solver is None else FittedSolver(solver)
    found = fit_curvature(solver.preconditioner, task, seed=seed, progress=progress)[-1].operator
    return FittedSolver(solver, found.spectral_form() if found.spectrum_known else found)


def fit_all(
    curvatures: Sequence[Curvature],
    task: Task | Sequence[Task],
    *,
    seed: int = 0,
    progress: Progress | None = None,
    limits: Limits = DEFAULT,
) -> tuple[FittedStage, ...]:
    """Several whole curvatures, their chains in one shared run over the data, each under its name.

    Args:
        curvatures: Chains and combinations.
        task: Model, loss and data, or the task at several models, as `fit_chains` takes them.
        seed: Seeds the sampled labels of every pass.
        progress: Called after every batch.
        limits: Of the plan.
    """
    chains = [c for c in curvatures if isinstance(c, Chain)]
    together = iter(
        fit_chains(chains, task, seed=seed, last=True, progress=progress, limits=limits)
    )
    fitted = [
        next(together)[-1]
        if isinstance(c, Chain)
        else fit_combination(c, task, seed=seed, progress=progress, limits=limits)
        for c in curvatures
    ]
    return tuple(replace(x, label=c.name) for x, c in zip(fitted, curvatures, strict=True))
