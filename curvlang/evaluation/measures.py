"""Ground truths beyond subsets: mislabelled examples found, and the proximal response predicted.

Each measure gives one number with its interval for every curvature at every setting of the inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.gradients import gradient_batches, product, query_gradients
from curvlang.attribution.scorer import Scorer, self_scores
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.brittleness import (
    flip_share,
    flipped,
    right_queries,
    without_supporters,
)
from curvlang.evaluation.fidelity import Setting
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import percentile_interval
from curvlang.evaluation.statistics.spearman import spearman
from curvlang.models.execution.substitution import functional_call
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import trainable
from curvlang.operators import Operator
from curvlang.runtime.fit import FittedStage
from curvlang.runtime.inverse import invert
from curvlang.training.baseline import train_baseline
from curvlang.training.subsets import are_classes, without_classes

RESAMPLES = 200
Table = list[list[Interval | None]]
"""`[curvatures][settings]`; None where the inverse is refused."""
Fit = Callable[[Task], Sequence[FittedStage]]
"""Fits the study's curvatures on a task, dense matrices decomposed."""


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a measure is computed from.

    Args:
        base: The trained task in the precision of training.
        task: The same in the precision of the analysis.
        stages: Curvatures fitted on it.
        fit: Fits them on another task.
        chosen: Settings of the inverse.
        seed: Of the model's initialisation.
    """

    base: Task
    task: Task
    stages: Sequence[FittedStage]
    fit: Fit
    chosen: Sequence[Setting]
    seed: int


# Mislabelled examples -----------------------------------------------------------------------


def mislabelled(given: Given, share: float, seed: int) -> Table:
    """Area under the ROC curve of finding examples whose labels were changed before training.

    A share of the training labels is changed to another class at random, the model is trained on
    them, and the examples are ranked by their influence on themselves, ∇ℓ_nᵀ C⁻¹ ∇ℓ_n: largest
    first (Koh & Liang 2017, arXiv:1703.04730, section 5.4). Chance is .5.

    Raises:
        SpecError: E0508 where the targets are no classes.
    """
    wrong, changed = mislabel(given.base, share, seed)
    base = train_baseline(changed, given.seed)
    task = base.to(dtype=given.task.dtype)

    def one(inverse: Operator) -> Interval:
        own = self_scores(inverse, task, "train")
        return auc(own[wrong.to(own.device)], own[~wrong.to(own.device)], seed)

    return _table(given.fit(task), given.chosen, one)


def mislabel(task: Task, share: float, seed: int) -> tuple[Tensor, Task]:
    """Which examples got a wrong label `[N]`, and the task with them."""
    x, y = task.train
    if not are_classes(y):
        raise without_classes("`mislabelled` changes labels", task)
    rng = np.random.default_rng([seed, 21])
    classes = int(y.max()) + 1
    count = max(1, round(share * task.N))
    rows = torch.from_numpy(rng.permutation(task.N)[:count])
    shift = torch.from_numpy(rng.integers(1, classes, count)).to(y)
    labels = y.clone()
    labels[rows] = (labels[rows] + shift) % classes
    wrong = torch.zeros(task.N, dtype=torch.bool)
    wrong[rows] = True
    return wrong, task.replaced(train=(x, labels))


def auc(positive: Tensor, negative: Tensor, seed: int = 0) -> Interval:
    """P(positive > negative) + P(equal)/2, with a bootstrap over both sides."""
    above = (positive[:, None] > negative[None]).double()
    above += 0.5 * (positive[:, None] == negative[None]).double()
    generator = torch.Generator().manual_seed(seed)

    def counts(size: int) -> Tensor:
        drawn = torch.randint(0, size, (RESAMPLES, size), generator=generator)
        weight = torch.zeros(RESAMPLES, size, dtype=torch.float64)
        return (
            weight.scatter_add_(1, drawn, torch.ones(RESAMPLES, size, dtype=torch.float64)) / size
        )

    above = above.cpu()
    values = ((counts(len(positive)) @ above) * counts(len(negative))).sum(1)
    return Interval(float(above.mean()), *percentile_interval(values, 0.95))


# The proximal Bregman response --------------------------------------------------------------


def proximal_response(given: Given, examples: int, steps: int, seed: int) -> Table:
    """Rank agreement with the proximal Bregman response to leaving out single examples.

    θ_n = argmin (1/N) Σ_i D(f_i(θ), f_i(θ_s)) + λ/2 ‖θ − θ_s‖² − (1/N) ℓ_n(θ), with D the Bregman
    divergence of the loss in the outputs: what the damped Gauss–Newton inverse approximates (Bae et
    al. 2022, arXiv:2209.05364). The Spearman correlation over examples of the queries' changed
    losses with the scores, averaged over queries. λ is the setting's; without one there is no response.

    Args:
        given: The trained task, its curvatures, the settings.
        examples: Left out one at a time.
        steps: Iterations of L-BFGS for each.
        seed: Of the choice of examples.
    """
    rng = np.random.default_rng([seed, 22])
    rows = torch.from_numpy(rng.permutation(given.task.N)[:examples].copy())
    task = given.task
    few = gradient_batches(task.examples(rows), task.loss, "train")
    left_out = torch.cat(list(few)).to(torch.float64)
    query = query_gradients(task, task.loss).to(torch.float64)
    out: Table = [[] for _ in given.stages]
    for setting in given.chosen:
        if setting.damping is None or setting.damping <= 0:
            for row in out:
                row.append(None)
            continue
        response = proximal_losses(given.task, rows, setting.damping, steps)
        agreed = _table(given.stages, [setting], _predicted(query, left_out, response, seed))
        for row, (value,) in zip(out, agreed, strict=True):
            row.append(value)
    return out


def proximal_losses(task: Task, rows: Tensor, damping: float, steps: int) -> Tensor:
    """Change of every query's loss `[Q, M]` at the proximal response to leaving out each example."""
    names = list(trainable(task.model))
    start = {n: p.detach() for n, p in trainable(task.model).items()}
    (x, y), (ask, answer) = next(task.batches(task.N)), next(task.batches(task.Q, "query"))
    anchor = functional_call(task.model, start, (x,)).detach().requires_grad_()
    slope = torch.autograd.grad(task.loss.per_example(anchor, y).sum(), anchor)[0]
    anchor = anchor.detach()
    at_anchor = task.loss.per_example(anchor, y).detach()
    before = task.loss.per_example(functional_call(task.model, start, (ask,)), answer).detach()
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
            after = task.loss.per_example(functional_call(task.model, moved, (ask,)), answer)
        changes.append((after - before).detach())
    return torch.stack(changes, 1)


def _predicted(
    query: Tensor, left_out: Tensor, response: Tensor, seed: int
) -> Callable[[Operator], Interval]:
    """Agreement of an inverse's scores `[Q, M]` with the response, intervals over queries."""

    def one(inverse: Operator) -> Interval:
        per_query = spearman(product(inverse, query) @ left_out.T, response)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(0, len(per_query), (RESAMPLES, len(per_query)), generator=generator)
        means = per_query.cpu()[drawn].mean(1)
        return Interval(float(per_query.mean()), *percentile_interval(means, 0.95))

    return one


# Brittleness --------------------------------------------------------------------------------


def brittleness(given: Given, share: float, queries: int, retrains: int, seed: int) -> Table:
    """Share of right predictions that flip when the highest scores are removed.

    For each of the first queries that the model predicts rightly, a share of the training examples
    is left out, those of the highest scores, and the model is trained R times anew; the prediction
    flips where most of them are wrong. More flips: better supporters found.

    Raises:
        SpecError: E0508 where there are no classes or no query is right.
    """
    rows = right_queries(given.task, queries)
    X, y = given.task.query
    own = given.task.replaced(query=(X[rows.to(X.device)], y[rows.to(y.device)]))
    places, inverses = [], []
    for k, stage in enumerate(given.stages):
        for j, setting in enumerate(given.chosen):
            try:
                inverse = invert(stage.operator, setting.use)
            except SpecError:
                # A refused inverse has no scores, here as in the study's own table.
                continue
            places.append((k, j))
            inverses.append(inverse)
    columns = zip(*Scorer(own, own.loss, inverses), strict=True) if inverses else ()
    scored = {
        place: torch.cat([x for x in column if isinstance(x, Tensor)])
        for place, column in zip(places, columns, strict=True)
        if all(isinstance(x, Tensor) for x in column)
    }
    kept = [without_supporters(scores, share) for scores in scored.values()]
    out: Table = [[None] * len(given.chosen) for _ in given.stages]
    found = flipped(given.base, rows, kept, retrains, seed) if kept else []
    for (k, j), mistakes in zip(scored, found, strict=True):
        out[k][j] = flip_share(mistakes, seed)
    return out


# All of them --------------------------------------------------------------------------------


MEASURES: Mapping[str, Callable[..., Table]] = {
    "mislabelled": mislabelled,
    "proximal_response": proximal_response,
    "brittleness": brittleness,
}
"""By the name that a study gives; signatures stand in `language.registry`."""


def measure_by_name(name: str, arguments: Mapping[str, Any], given: Given) -> Table:
    """A measure's table by name."""
    return MEASURES[name](given, **arguments)


def _table(
    stages: Sequence[FittedStage],
    chosen: Sequence[Setting],
    one: Callable[[Operator], Interval],
) -> Table:
    """`one` of every inverse; None where the inverse is refused, as in the study's own table."""

    def value(stage: FittedStage, setting: Setting) -> Interval | None:
        try:
            return one(invert(stage.operator, setting.use))
        except SpecError:
            return None

    return [[value(stage, setting) for setting in chosen] for stage in stages]
