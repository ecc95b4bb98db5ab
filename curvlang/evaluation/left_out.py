"""Dense steps of an evaluation that were not requested and take long: they are not formed.

They stay as what they are multiplied with, and errors against them are estimates; what has no products
either is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.question import REFERENCE, Question
from curvlang.language.chain import Chain, Curvature
from curvlang.language.partition import partition_of_chain
from curvlang.models.derivatives.flops import hessian_flops
from curvlang.models.derivatives.product_methods import hessian_way
from curvlang.models.task import Task

BUDGET = 5e12
"""Operations of a dense step that is not asked for: about half a minute on two cores. A count, not a time, so
that what is evaluated does not depend on the machine."""
DECOMPOSED = 10
"""Operations of an eigendecomposition of n rows, in n³."""
DENSE = ("hessian", "drop_residual", "block_diagonal")
"""Stages that leave dense matrices."""


@dataclass(frozen=True, slots=True)
class UnformedMatrix:
    """Names of the steps whose matrices are not formed, each with the reason.

    Args:
        by_products: Those that are multiplied with.
        absent: Those that have no products either.
    """

    by_products: Mapping[str, str]
    absent: Mapping[str, str]


def unformed(question: Question, task: Task) -> UnformedMatrix:
    """The steps whose dense matrices are not formed.

    The curvatures in question, and a reference that is named, stay. The Hessian counts as a step where it is
    the reference by default alone.

    Args:
        question: What is compared.
        task: Model and data; a few examples are run.
    """
    steps = {c.name: c for c in question.curvatures if c.name not in question.subjects}
    if question.reference is not None:
        steps.pop(question.reference.name, None)
    elif REFERENCE not in {c.name for c in question.curvatures}:
        steps[REFERENCE] = Chain(REFERENCE, (), (REFERENCE,))
    by_products: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name, step in steps.items():
        if not (why := _long(step, task)):
            continue
        if (missing := _without_products(step, task)) is None:
            by_products[name] = why
        else:
            absent[name] = missing
    return UnformedMatrix(by_products, absent)


def _without_products(step: Curvature, task: Task) -> str | None:
    """Why a step that is not formed has no products either; None where it has."""
    assert isinstance(step, Chain)
    drops = [stage for stage in step.stages if stage.name == "drop_residual"]
    if not drops:
        try:
            hessian_way(task.model, task.loss, *task.train)
        except SpecError as error:
            return error.diagnostics[0].headline
    elif (fisher := drops[-1].arguments.get("fisher", "exact")) != "exact":
        return f"a matrix of columns `fisher = {fisher}` has no products"
    return None


def _long(step: Curvature, task: Task) -> str:
    """Why a built-in step takes more than the budget; empty where it does not."""
    if not isinstance(step, Chain):
        return ""
    stages = [stage.name for stage in step.stages] or [REFERENCE]
    if not set(stages) <= set(DENSE):
        return ""
    sizes = [task.P]
    if "block_diagonal" in stages:
        blocks = task.blocks(partition_of_chain(step))
        sizes = [block.size // block.count for block in blocks for _ in range(block.count)]
    operations: float = DECOMPOSED * sum(size**3 for size in sizes)
    if stages[-1] == REFERENCE:
        try:
            operations += _hessian(task, operations)
        except SpecError as error:
            return error.diagnostics[0].headline
    if operations <= BUDGET:
        return ""
    rows = f"{max(sizes)} rows" if len(sizes) == 1 else f"up to {max(sizes)} rows"
    return f"dense matrices of {rows}, {operations:.1g} operations"


def _hessian(task: Task, known: float) -> float:
    """Operations of its entries; not counted where the rest is over the budget already.

    Raises:
        SpecError: Where the model has no second derivatives.
    """
    if known > BUDGET:
        return 0.0
    way = hessian_way(task.model, task.loss, *task.train)
    return task.N * hessian_flops(task.model, task.loss, *task.train, task.blocks(), way)


def notes_of(steps: UnformedMatrix, label: str) -> tuple[str, ...]:
    """What is said of steps that are not formed.

    Args:
        steps: The steps and their reasons.
        label: What errors are measured against.
    """
    found = []
    if steps.by_products:
        found.append(
            f"not asked for and not formed, but multiplied with: {_listed(steps.by_products)}; errors "
            "against them are estimates"
        )
    if steps.absent:
        found.append(
            f"left out, since they were not asked for: {_listed(steps.absent)}; errors are against "
            f"`{label}`. To ask: `error against hessian` in an `evaluate` block, or evaluate the step "
            "itself"
        )
    return tuple(found)


def _listed(steps: Mapping[str, str]) -> str:
    return "; ".join(f"`{name}` ({why})" for name, why in steps.items())
