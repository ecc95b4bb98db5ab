"""Seconds of every stage of a run before it starts, for the end that progress predicts."""

from __future__ import annotations

from curvlang.compiler.derive.program import Partition
from curvlang.compiler.planning.cost import plan_cost
from curvlang.costs.predicted import predicted_fit
from curvlang.costs.rates import measured_rates
from curvlang.models.task import Task
from curvlang.runtime.prepare import Preparation
from curvlang.runtime.progress.display import place

WORTH = {"cpu": 1e12, "cuda": 1e14}
"""Operations of a run by the device, below which its end is not predicted: it would be there before."""
HELD = 2**24
"""Bytes that the measurement of the machine may take: the run's own memory is not to be disturbed."""


def seconds_of_fit(prepared: Preparation, task: Task) -> dict[str, float]:
    """Seconds of every stage of a fit, where it takes long enough to ask; else nothing.

    Args:
        prepared: Its plans.
        task: Model and data; the model is timed on a few examples.
    """
    if operations(prepared) < WORTH.get(task.device.type, WORTH["cuda"]):
        return {}
    found = predicted_fit(prepared, task, measured_rates(task.device, HELD, task.policy))
    _, size = place()
    return {p.name: p.seconds / size for p in found if p.seconds is not None}


def operations(prepared: Preparation) -> float:
    """Operations of a fit, roughly and at once: its code, and three products of every layer for each pass."""
    own = sum(plan_cost(p).flops for p in prepared.plans)
    layers = prepared.blocks.get(Partition.LAYER, ())
    one = sum(6.0 * b.positions * b.count * b.d_out * b.d_in for b in layers)
    return own + one * sum(p.passes * p.total for p in prepared.plans)
