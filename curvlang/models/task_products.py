"""How a task's products of float32 are computed, in its passes and with its training examples."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from curvlang.models.execution.product_kernels import float32_products
from curvlang.models.task import Task


def products_of_passes(task: Task) -> AbstractContextManager[None]:
    """As the task's precision says of the passes."""
    kind = str(task.precision) if task.policy is None else task.policy.passes
    return float32_products(kind, task.device, task.P)


def products_of_scores(task: Task) -> AbstractContextManager[None]:
    """As the task's precision says of products with training examples, where that is something else."""
    policy = task.policy
    if policy is None or "tf32" not in (policy.passes, policy.products):
        return nullcontext()
    return float32_products(policy.products, task.device, task.P)
