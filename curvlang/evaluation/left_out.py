"""Steps of a chain that an evaluation leaves out: dense matrices that nobody asked for, and are long in the making."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language.chain import Chain, Curvature
from curvlang.models.derivatives.flops import hessian_flops
from curvlang.models.derivatives.product_methods import hessian_way
from curvlang.models.task import Task

BUDGET = 5e12
"""Operations of a dense step that is not asked for: about half a minute on two cores. A count, not a time, so
that what is evaluated does not depend on the machine."""
DECOMPOSED = 10
"""Operations of an eigendecomposition of n rows, in n³."""


def left_out(curvature: Curvature, reference: Curvature | None, task: Task) -> dict[str, str]:
    """Labels of the steps that are left out, each with the reason.

    The last step of a chain is what is evaluated, and a reference that is named is asked for: both stay.

    Args:
        curvature: What is evaluated.
        reference: What errors are measured against, where the spec says so.
        task: Model and data; a few examples are run.
    """
    asked = {None if reference is None else reference.name}
    if not isinstance(curvature, Chain):
        # A sum has no steps: the Hessian beside it is the reference alone.
        hessian = Chain("hessian", (), ("hessian",))
        return {} if reference is not None else dict(_long(hessian, 1, task))
    asked.add(curvature.labels[-1])
    last = len(curvature.stages) - 1
    return {k: why for k, why in _long(curvature, last, task) if k not in asked}


def _long(chain: Chain, count: int, task: Task) -> Iterator[tuple[str, str]]:
    """Built-in steps whose dense matrices take more than the budget, the first `count` of a chain."""
    names = [stage.name for stage in chain.stages] or ["hessian"]
    sizes = [task.P]
    for name, label in list(zip(names, chain.labels, strict=True))[:count]:
        if name == "block_diagonal":
            sizes = [
                block.size // block.count for block in task.blocks() for _ in range(block.count)
            ]
        elif name not in ("hessian", "drop_residual"):
            return
        operations: float = DECOMPOSED * sum(size**3 for size in sizes)
        if name == "hessian":
            try:
                operations += _hessian(task, operations)
            except SpecError as error:
                yield label, error.diagnostics[0].headline
                continue
        if operations > BUDGET:
            rows = f"{max(sizes)} rows" if len(sizes) == 1 else f"up to {max(sizes)} rows"
            yield label, f"dense matrices of {rows}, {operations:.1g} operations"


def _hessian(task: Task, known: float) -> float:
    """Operations of its entries; not counted where the rest is over the budget already.

    Raises:
        SpecError: Where the model has no second derivatives.
    """
    if known > BUDGET:
        return 0.0
    way = hessian_way(task.model, task.loss, *task.train)
    return task.N * hessian_flops(task.model, task.loss, *task.train, task.blocks(), way)


def kept_prefixes(chain: Chain, without: Mapping[str, str]) -> list[Chain]:
    """The chain up to every step that is kept."""
    return [
        replace(chain, stages=chain.stages[: k + 1], labels=chain.labels[: k + 1])
        for k, label in enumerate(chain.labels)
        if label not in without
    ]


def notes_of(without: Mapping[str, str], label: str) -> tuple[str, ...]:
    """What is said of steps that are left out.

    Args:
        without: The steps and their reasons.
        label: What errors are measured against instead.
    """
    if not without:
        return ()
    steps = "; ".join(f"`{name}` ({why})" for name, why in without.items())
    return (
        f"left out, since they were not asked for: {steps}; errors are against `{label}`. To ask: "
        "`error against hessian` in an `evaluate` block, or evaluate the step itself",
    )
