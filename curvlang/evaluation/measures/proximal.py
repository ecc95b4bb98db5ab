"""The proximal Bregman response to leaving out single examples, predicted by scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.scorer import Scorer
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.measures.grid import RESAMPLES, Grid, MeasureInput, fill
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import mean_over_queries
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.language.chain import InverseUse
from curvlang.language.checking.inverses import shift
from curvlang.models.execution.substitution import functional_call
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import trainable
from curvlang.operators import Operator
from curvlang.runtime.inverse import stated_damping


def proximal_response(given: MeasureInput, examples: int, steps: int, seed: int) -> Grid:
    """Rank agreement with the proximal Bregman response to leaving out single examples.

    θ_n = argmin (1/N) Σ_i D(f_i(θ), f_i(θ_s)) + λ/2 ‖θ − θ_s‖² − (1/N) ℓ_n(θ), with D the Bregman
    divergence of the loss in the outputs: what the damped Gauss–Newton inverse approximates (Bae et
    al. 2022, arXiv:2209.05364). The Spearman correlation over examples of the queries' changed
    losses with the scores, averaged over queries. λ is what the inverse adds to the curvature, as a
    number above 0; without one there is no response.

    Args:
        given: The trained task, its curvatures, the settings.
        examples: Left out one at a time.
        steps: Iterations of L-BFGS for each.
        seed: Of the choice of examples.
    """
    rng = np.random.default_rng([seed, 22])
    rows = torch.from_numpy(rng.permutation(given.task.N)[:examples].copy())
    some = given.task.examples(rows)
    grid = Grid(given.stages, given.chosen)
    for j, setting in enumerate(given.chosen):
        damping = stated_damping(setting.use)
        if damping is None or damping <= 0:
            for row in grid.reasons:
                row[j] = _without_response(setting.use, damping)
            continue
        response = proximal_losses(given.task, rows, damping, steps, given.metric)

        def one(inverse: Operator, response: Tensor = response) -> Interval:
            turns = [x for (x,) in Scorer(some, given.metric, [inverse])]
            refused = [x for x in turns if isinstance(x, SpecError)]
            if refused:
                raise refused[0]
            scores = torch.cat([x for x in turns if isinstance(x, Tensor)])
            return _agreement(scores, response, seed)

        fill(grid, given, given.stages, j, one)
    return grid


def _without_response(use: InverseUse, damping: float | None) -> str:
    if damping is not None:
        return "there is no proximal response at λ = 0"
    what = f"the proximal response is defined for (C + λI)⁻¹, and `{use.inverse.name}`"
    if shift(use.inverse) is None:
        return f"{what} is another function of C"
    return f"{what} takes λ from the spectrum of each curvature: state it as a number"


def proximal_losses(
    task: Task, rows: Tensor, damping: float, steps: int, metric: Loss | None = None
) -> Tensor:
    """Change of every query's metric `[Q, M]` at the proximal response to leaving out each example."""
    asked = task.loss if metric is None else metric
    names = list(trainable(task.model))
    start = {n: p.detach() for n, p in trainable(task.model).items()}
    (x, y), (ask, answer) = next(task.batches(task.N)), next(task.batches(task.Q, "query"))
    anchor = functional_call(task.model, start, (x,)).detach().requires_grad_()
    slope = torch.autograd.grad(task.loss.per_example(anchor, y).sum(), anchor)[0]
    anchor = anchor.detach()
    at_anchor = task.loss.per_example(anchor, y).detach()
    before = asked.per_example(functional_call(task.model, start, (ask,)), answer).detach()
    changes = []
    for n in rows.tolist():
        moved = {k: v.clone().requires_grad_() for k, v in start.items()}
        optimiser = torch.optim.LBFGS(
            list(moved.values()),
            max_iter=steps,
            tolerance_grad=1e-10,
            tolerance_change=1e-14,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective(moved: dict[str, Tensor] = moved, n: int = n) -> Tensor:
            outputs = functional_call(task.model, moved, (x,))
            losses = task.loss.per_example(outputs, y)
            linear = (slope * (outputs - anchor)).flatten(1).sum(1)
            divergence = (losses - at_anchor - linear).mean()
            distance = sum(((moved[k] - start[k]).square().sum() for k in names), x.new_zeros(()))
            return divergence + damping / 2 * distance - losses[n] / len(x)

        def closure(optimiser: Any = optimiser, objective: Any = objective) -> Tensor:
            optimiser.zero_grad()
            value: Tensor = objective()
            value.backward()
            return value

        optimiser.step(closure)
        with torch.no_grad():
            after = asked.per_example(functional_call(task.model, moved, (ask,)), answer)
        changes.append((after - before).detach())
    return torch.stack(changes, 1)


def _agreement(scores: Tensor, response: Tensor, seed: int) -> Interval:
    """Rank agreement of scores `[Q, M]` with the response, intervals over queries."""
    per_query = spearman(scores.to(response), response)
    return mean_over_queries(per_query, resamples=RESAMPLES, seed=seed)
