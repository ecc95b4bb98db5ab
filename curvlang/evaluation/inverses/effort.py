"""How much products with a curvature cost: what is not inverted unasked, and what estimates may take."""

from __future__ import annotations

from curvlang.models.task import Task
from curvlang.operators import BlockDiagonal, Operator
from curvlang.runtime.solver import FittedSolver

FLOPS = 8
"""Multiplications and additions per parameter and example of a product: a tangent and its way back."""
EXPECTED = 50
"""Products per vector and setting that are counted on before the iteration is known."""
UNASKED = 1e13
"""Floating-point operations that are spent on a stage without a `solve` line: minutes on two cores."""
UNASKED_ON_DEVICE = 1e15
"""The same where an accelerator computes them."""
ESTIMATED = 2e12
"""Operations that estimated norms may take, and inverse errors by products likewise: a count, not a time,
so that results do not depend on the machine."""


def product_count(operator: Operator) -> int:
    """Passes over the data that a product with a vector takes."""
    if operator.spectrum_known:
        return 0
    return operator.products if isinstance(operator, BlockDiagonal) else 1


def affordable(each: int, task: Task) -> int:
    """How many vectors can be multiplied, `each` products for one, within `ESTIMATED` operations."""
    return int(ESTIMATED // max(1, each * FLOPS * task.P * task.N))


def too_long(operator: Operator, solver: FittedSolver | None, work: int) -> str:
    """Why a curvature known by its products alone is not inverted unasked; empty where it is.

    Args:
        operator: The curvature.
        solver: With a solver the spec has asked for it, however long it takes.
        work: Settings times vectors times training examples.
    """
    if solver is not None or operator.spectrum_known:
        return ""
    flops = FLOPS * EXPECTED * work * operator.size
    if flops <= (UNASKED if operator.device.type == "cpu" else UNASKED_ON_DEVICE):
        return ""
    return (
        f"not inverted: {operator.size} rows known by products alone would take about "
        f"{flops:.0e} floating-point operations; ask for it by a line `solve cg` in the evaluation"
    )
