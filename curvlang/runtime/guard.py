"""What has been added up over the examples is finite, or the examples that are to blame are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from math import inf, isfinite

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.models.derivatives.products import hessian_product
from curvlang.models.losses.finite import check_examples_finite, in_part
from curvlang.models.task import Task
from curvlang.operators import BlockDiagonal, Kronecker, Operator, Scaled, Sum
from curvlang.operators.validation import all_finite

SOUND = "the loss and the gradient of every example are"


def check_sums(sums: Mapping[str, Mapping[str, Tensor]], tasks: Sequence[Task], span: Span) -> None:
    """Sums over a pass, by block and statistic, are finite.

    Raises:
        SpecError: E0420 naming the examples whose loss or gradient is not, else E0421.
    """
    for block, named in sums.items():
        for x in named.values():
            if not all_finite(x):
                check_tasks(tasks)
                raise not_finite(f"a sum over the examples in the block `{block}`", span, SOUND)


def check_parts(parts: Mapping[str, Tensor], block: str, stage: str, span: Span) -> None:
    """What a block's operator is made of is finite.

    Raises:
        SpecError: E0421 at the stage.
    """
    if not all(map(all_finite, parts.values())):
        raise not_finite(
            f"the block `{block}` after `{stage}`",
            span,
            "the sums over the examples that it is made of are finite",
        )


def check_magnitude(op: Operator, what: str, span: Span) -> None:
    """Entries of an operator and their sums are finite, not only the numbers that it is made of.

    Raises:
        SpecError: E0421 at the stage or the sum.
    """
    if not isfinite(_magnitude(op) * op.size):
        raise not_finite(f"`{what}`", span, "the numbers that it is made of are finite")


def _magnitude(op: Operator) -> float:
    """A bound on every entry."""
    match op:
        case Scaled(factor=factor, operator=inner):
            return abs(float(factor)) * _magnitude(inner)
        case Sum(terms=terms):
            return sum(map(_magnitude, terms))
        case BlockDiagonal(parts=parts):
            return max(map(_magnitude, parts), default=0.0)
        case Kronecker(left=left, right=right):
            return _largest(left) * _largest(right)
        case _:
            return max(map(_largest, op.tensors()), default=0.0)


def _largest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, inf)) if x.is_floating_point() and x.numel() else 0.0


def check_hessian(entries: Tensor, tasks: Sequence[Task]) -> None:
    """Entries of the Hessian, or products with it, are finite.

    Raises:
        SpecError: E0420 or E0793 naming an example, else E0421.
    """
    if all_finite(entries):
        return
    for task in tasks:
        check_examples_finite(task.model, task.loss, *task.train, "train")
        for n in range(task.N):
            one = slice(n, n + 1)
            X, y = (part[one].to(task.device) for part in task.train)
            v = torch.ones(task.P, dtype=task.dtype, device=task.device)
            if not all_finite(hessian_product(task.model, task.loss, X, y)(v)):
                raise refusal(
                    Code.E0793,
                    f"example {n} of `train`: the second derivatives of its loss are not finite",
                    "use a curvature without them (`drop_residual`), drop the example, or keep the "
                    "model twice differentiable there",
                    notes=("its loss and its gradient are finite",),
                )
    raise not_finite("the Hessian", NOWHERE, SOUND)


def guarded(
    product: Callable[[Tensor], Tensor], tasks: Sequence[Task]
) -> Callable[[Tensor], Tensor]:
    """The product, looked at: what is not finite comes from a vector or is refused."""

    def looked_at(v: Tensor) -> Tensor:
        with ExitStack() as stack:
            for task in tasks:
                stack.enter_context(in_part(task.model, task.train[0], "train", 0))
            found = product(v)
        if not all_finite(found) and all_finite(v):
            check_hessian(found, tasks)
        return found

    return looked_at


def check_tasks(tasks: Iterable[Task]) -> None:
    """Losses and gradients of all training examples are finite.

    Raises:
        SpecError: E0420.
    """
    for task in tasks:
        check_examples_finite(task.model, task.loss, *task.train, "train")


def not_finite(what: str, span: Span, known: str) -> SpecError:
    """The refusal where the examples themselves are finite, as far as is `known`."""
    return refusal(
        Code.E0421,
        f"{what} is not finite",
        "look for a division by zero (write `x / max(y, 1e-30)`), a logarithm or a power of 0 in the "
        "formula; where numbers are very large, compute in float64: `task.to(dtype=torch.float64)`",
        notes=(known,),
        labels=label_at(span, "requested here"),
    )
