"""Gauss-Newton matrices that are zero because the loss is linear in the outputs: said once, with a repair."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from curvlang.compiler.derive.program import Fisher, Program
from curvlang.models.task import Task
from curvlang.models.tracing.verify import EXAMPLES
from curvlang.runtime.limits.activations import forward_batch


class ZeroCurvature(UserWarning):
    """A curvature that is zero by definition."""


def warn_of_zero(programs: Sequence[Program], task: Task) -> str:
    """What is said of a loss without curvature at the outputs, as a warning too; empty for others.

    A few examples tell nearly always that there is some; only where they have none the others are
    looked at, forward passes alone, up to the first that has.
    """
    if not any(reads_curvature(program.fisher) for program in programs):
        return ""
    X, y = task.train
    if _curved(task, X[:EXAMPLES].to(task.device), y[:EXAMPLES].to(task.device)):
        return ""
    if any(_curved(task, x, y) for x, y in task.batches(forward_batch(task))):
        return ""
    note = (
        f"the Gauss-Newton matrix is zero: `{task.loss.name}` is linear in the outputs at every training "
        "example; give logits to `cross_entropy` (in place of log-probabilities), or use "
        "`fisher = empirical`"
    )
    warnings.warn(note, ZeroCurvature, stacklevel=2)
    return note


def reads_curvature(fisher: Fisher | None) -> bool:
    """Whether columns are those of the loss's curvature, exact or drawn."""
    return fisher is not None and fisher.kind in ("exact", "mc")


def _curved(task: Task, x: Tensor, y: Tensor) -> bool:
    """Whether Λ u is other than 0 for numbers u drawn at random, for any example."""
    with torch.no_grad():
        f = task.model(x)
        drawn = torch.rand(f.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return bool((task.loss.hessian_product(f, y, drawn.to(f)) != 0).any())
