"""Leading eigenvalues and eigenvectors of a curvature, by its products alone: no matrix of it is formed."""

from __future__ import annotations

import warnings
from pathlib import Path

from curvlang.compiler.planning.plan import Limits
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.values import another_type, whole_number
from curvlang.language import load
from curvlang.language.chain import Spec
from curvlang.language.selection import chains_of, chosen
from curvlang.models.execution.torch_state import settled
from curvlang.models.task import Task, check_task
from curvlang.models.task_products import products_of_passes
from curvlang.operators import Leading, Operator
from curvlang.operators import leading_eigenpairs as by_products
from curvlang.operators.iterative.arnoldi import LeadingPairs
from curvlang.operators.iterative.iteration import NotConverged
from curvlang.runtime.combine import fit_curvature
from curvlang.runtime.fitted import FittedOperator
from curvlang.runtime.limits.memory import Memory, limited, require
from curvlang.runtime.others import without_ignored
from curvlang.runtime.processes.in_step import in_step
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import Progress, ProgressOption

PRODUCTS = Limits(dense=1)
"""Of a fit that forms no matrix where the curvature is known by its products."""
_SIZE = 8


@settled
@validated
def leading_eigenpairs(
    operator: FittedOperator | Operator | Spec | str | Path,
    k: int = 10,
    task: Task | None = None,
    *,
    iterations: int = 200,
    tolerance: float = 1e-6,
    seed: int = 0,
    memory: Memory = None,
    progress: ProgressOption = True,
) -> LeadingPairs:
    """The k eigenvalues of the largest size with their eigenvectors, by Lanczos's iteration.

    Of a spec nothing of the size of a matrix over the parameters is formed: `hessian` and `ggn` are known by
    products, whatever their size. In memory lie `iterations` + k vectors of the size of the parameters.

    Args:
        operator: A fitted curvature; or a spec, a path, or the name of one that ships, with a task.
        k: How many.
        task: Model and data of a spec; a fitted curvature has its own.
        iterations: Products with the curvature at most.
        tolerance: The residual ‖C u − s u‖, relative to the largest |s|, at which a pair counts as found.
        seed: Of the first vector, and of sampled columns.
        memory: What may be held; what is free where not given.
        progress: Shown on standard error; `False` for nothing, or a function that is called as work proceeds.

    Returns:
        `values` [k], the largest |s| first, `vectors` [P, k] in the order of `task.parameters`, the number of
        `steps`, and the `residual`; a `NotConverged` warning where it is above the tolerance.

    Raises:
        SpecError: E0563 for something else than a curvature, a spec without a task, or k below 1.
        MachineError: E0801 for vectors that do not fit into memory.
    """
    k, iterations = whole_number(k, "k", "10"), whole_number(iterations, "iterations", "200")
    if min(k, iterations) < 1:
        raise another_type("k", k, "a number of eigenpairs, 1 or more", "10")
    wanted = Leading(k, iterations, tolerance, seed)
    with limited(memory), shown(progress, "cv.leading_eigenpairs") as told:
        if isinstance(operator, FittedOperator | Operator):
            known = operator.operator if isinstance(operator, FittedOperator) else operator
            return _found(known, wanted, told)
        if task is None:
            example = "`cv.leading_eigenpairs(spec, 10, task)`"
            raise another_type("task", task, "a task beside a spec", example)
        check_task(task)
        found = chosen(operator if isinstance(operator, Spec) else load(operator), None)
        seen = without_ignored(chains_of(found), task)
        with products_of_passes(seen):
            stage = fit_curvature(found, seen, seed=seed, last=True, progress=told, limits=PRODUCTS)
            return _found(stage[-1].operator, wanted, told)


def _found(operator: Operator, wanted: Leading, told: Progress | None) -> LeadingPairs:
    vectors = min(wanted.iterations + 1, operator.size) + 2 * wanted.rank
    require(_SIZE * operator.size * vectors, operator.device, "the vectors of the iteration")
    with in_step():
        made = by_products(operator, wanted, told)
    if made.residual > wanted.tolerance:
        warnings.warn(
            f"after {made.steps} products the residual of {len(made.values)} eigenpairs is {made.residual:.2g} of "
            "the largest eigenvalue; use more `iterations`, fewer pairs, or a larger `tolerance`",
            NotConverged,
            stacklevel=4,
        )
    return made
