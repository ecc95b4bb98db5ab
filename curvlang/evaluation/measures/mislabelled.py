"""Mislabelled examples, found by their influence on themselves."""

from __future__ import annotations

from math import nan

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.scorer import self_scores
from curvlang.evaluation.measures.grid import RESAMPLES, Grid, MeasureInput, grid_of
from curvlang.evaluation.statistics.interval import Interval
from curvlang.evaluation.statistics.lds import percentile_interval
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.training.baseline import train_baseline
from curvlang.training.subsets import are_classes, without_classes


def mislabelled(given: MeasureInput, share: float, seed: int) -> Grid:
    """Area under the ROC curve of finding examples whose labels were changed before training.

    A share of the training labels is changed to another class at random, the model is trained on
    them, and the examples are ranked by their influence on themselves, ∇ℓ_nᵀ C⁻¹ ∇ℓ_n: largest
    first (Koh & Liang 2017, arXiv:1703.04730, section 5.4). Chance is .5.

    Raises:
        SpecError: E0508 where the targets are not classes.
    """
    wrong, changed = mislabel(given.base, share, seed)
    base = train_baseline(changed, given.seed)
    task = base.to(dtype=given.task.dtype)
    if task.parameters != given.task.parameters:
        task = task.restricted(given.task.parameters)

    def one(inverse: Operator) -> Interval:
        own = self_scores(inverse, task, "train")
        return auc(own[wrong.to(own.device)], own[~wrong.to(own.device)], seed)

    return grid_of(given, given.fit(task), one)


def check_labels(task: Task) -> None:
    """Refuse targets that are not classes.

    Raises:
        SpecError: E0508.
    """
    if not are_classes(task.train[1]):
        raise without_classes("`mislabelled` changes labels", task)


def mislabel(task: Task, share: float, seed: int) -> tuple[Tensor, Task]:
    """Which examples got a wrong label `[N]`, and the task with them."""
    check_labels(task)
    x, y = task.train
    rng = np.random.default_rng([seed, 21])
    labels = y[:].clone()
    classes = int(labels.max()) + 1
    count = max(1, round(share * task.N))
    rows = torch.from_numpy(rng.permutation(task.N)[:count])
    shift = torch.from_numpy(rng.integers(1, classes, count)).to(labels)
    labels[rows] = (labels[rows] + shift) % classes
    wrong = torch.zeros(task.N, dtype=torch.bool)
    wrong[rows] = True
    return wrong, task.replaced(train=(x, labels))


def auc(positive: Tensor, negative: Tensor, seed: int = 0) -> Interval:
    """P(positive > negative) + P(equal)/2, with a bootstrap over both sides; none where one is single."""
    above = (positive[:, None] > negative[None]).double()
    above += 0.5 * (positive[:, None] == negative[None]).double()
    if min(above.shape) < 2:
        return Interval(float(above.mean()), nan, nan)
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
