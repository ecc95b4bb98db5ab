"""Brittleness: how many predictions flip when the examples that support them most are removed.

Ilyas et al. 2022 (arXiv:2202.00622), section 4.1: scores that find the true supporters flip a
prediction with few removals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from curvlang.attribution.scorer import Scorer
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.measures.grid import RESAMPLES, Grid, MeasureInput
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import mean_over_queries
from curvlang.models.data.derived_rows import selected_pair
from curvlang.models.losses.losses import CrossEntropy
from curvlang.models.task import Task
from curvlang.runtime.limits.activations import forward_batch
from curvlang.training.retrain import retrain
from curvlang.training.subsets import derived_seed, without_classes
from curvlang.training.training import training_of


class Mistake(CrossEntropy):
    """1 where the predicted class is not the target's, else 0: asked of queries, never trained on."""

    def per_example(self, f: Tensor, y: Tensor) -> Tensor:
        """`[B]`."""
        return (f.argmax(self.axis) != y).to(f.dtype)


def check_classes(task: Task) -> None:
    """Refuse a loss without classes.

    Raises:
        SpecError: E0508.
    """
    if task.loss.name != "cross_entropy":
        raise without_classes("`brittleness` flips predicted classes", task)


def right_queries(task: Task, count: int) -> Tensor:
    """The first `count` queries whose class the model predicts.

    Raises:
        SpecError: E0508 where the loss has no classes, E0796 where no query is right.
    """
    check_classes(task)
    with torch.no_grad():
        rule = Mistake(axis=getattr(task.loss, "axis", -1))
        batches = task.batches(forward_batch(task, "query"), "query")
        wrong = [rule.per_example(task.model(x), y) for x, y in batches]
    rows = (torch.cat(wrong) == 0).nonzero()[:count, 0].cpu()
    if not len(rows):
        raise _none_right(task)
    return rows


def without_supporters(scores: Tensor, share: float) -> Tensor:
    """Members `[Q, N]` that leave out each query's highest scores, a share of all examples."""
    count = max(1, round(share * scores.shape[1]))
    kept = torch.ones(scores.shape, dtype=torch.bool)
    top = scores.cpu().topk(count, dim=1).indices
    return kept.scatter_(1, top, False)


def flipped(
    base: Task, rows: Tensor, kept: Sequence[Tensor], retrains: int, seed: int
) -> list[Tensor]:
    """Share of R retrainings that mistake each query, `[Q]` for each set of members.

    All sets are trained with the same initialisations and orders, so that they are paired.

    Args:
        base: With `build` and `recipe`, in the precision of training.
        rows: The queries `[Q]`.
        kept: Members `[Q, N]`, several times.
        retrains: R.
        seed: Of initialisations and orders.
    """
    members = torch.cat([k.repeat_interleave(retrains, 0) for k in kept])
    runs = [(q, r) for _ in kept for q in range(len(rows)) for r in range(retrains)]
    query = selected_pair(base.query, rows.to(base.query[0].device))
    training = training_of(
        base,
        members,
        [derived_seed(seed, 41, r) for _, r in runs],
        [derived_seed(seed, 42, q, r) for q, r in runs],
        Mistake(axis=getattr(base.loss, "axis", -1)),
    )
    found = retrain(replace(training, query=query))
    own = found.query_loss[torch.arange(len(runs)), torch.tensor([q for q, _ in runs])]
    shares = own.double().cpu().reshape(len(kept), len(rows), retrains).mean(2)
    return list(shares)


def flip_share(mistakes: Tensor, seed: int) -> Interval:
    """Share of queries that most retrainings mistake, resampled over queries."""
    flips = (mistakes > 0.5).double()
    return mean_over_queries(flips, resamples=RESAMPLES, seed=seed)


def _none_right(task: Task) -> SpecError:
    return refusal(
        Code.E0796,
        f"the model of `{task.name}` predicts no query's class, so that none can flip",
        "train it longer, or leave `brittleness` out",
    )


def brittleness(given: MeasureInput, share: float, queries: int, retrains: int, seed: int) -> Grid:
    """Share of right predictions that flip when the highest scores are removed.

    For each of the first queries that the model predicts rightly, a share of the training examples
    is left out, those of the highest scores, and the model is trained R times again; the prediction
    flips where most of them are wrong. More flips: better supporters found.

    Raises:
        SpecError: E0508 where there are no classes or no query is right.
    """
    rows = right_queries(given.task, queries)
    some = given.task.queries(rows.to(given.task.query[0].device))
    grid = Grid(given.stages, given.chosen)
    places, inverses = [], []
    for k, stage in enumerate(given.stages):
        for j, setting in enumerate(given.chosen):
            try:
                inverses.append(given.inverse(stage, setting))
                places.append((k, j))
            except SpecError as error:
                grid.refused(k, j, error)
    turns = list(Scorer(some, given.metric, inverses)) if inverses else []
    scored: dict[tuple[int, int], Tensor] = {}
    for (k, j), column in zip(places, zip(*turns, strict=True), strict=True):
        refused = [x for x in column if isinstance(x, SpecError)]
        if refused:
            grid.refused(k, j, refused[0])
        else:
            scored[k, j] = torch.cat([x for x in column if isinstance(x, Tensor)])
    kept = [without_supporters(scores, share) for scores in scored.values()]
    found = flipped(given.base, rows, kept, retrains, seed) if kept else []
    for (k, j), mistakes in zip(scored, found, strict=True):
        grid.values[k][j] = flip_share(mistakes, seed)
    return grid
