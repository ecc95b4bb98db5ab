"""Gradients of examples over all parameters, a batch at a time; they and scores are finite, or the example is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.finite import check_examples_finite, in_part
from curvlang.models.losses.loss import Loss
from curvlang.models.sources.transfers import waits
from curvlang.models.task import Task
from curvlang.models.tracing.blocks import BatchChecks, LayerBlock
from curvlang.models.tracing.half_precision import exact_gradients
from curvlang.models.tracing.leaves import Fisher
from curvlang.operators import Operator
from curvlang.operators.validation import all_finite
from curvlang.runtime.limits.activations import activation_bytes
from curvlang.runtime.limits.memory import allowance

GRADIENT_BYTES = 2**28
"""Per-example gradients that are held at once."""
BATCH_SHARE = 4
"""A batch may take a quarter of the user's limit."""
MOST = 512
"""Examples that go through the model at once."""


def gradient_batches(
    task: Task, loss: Loss, part: str, within: range | None = None
) -> Iterator[Tensor]:
    """Gradients `[B, P]` of a loss on consecutive examples of a part, `within` some of them."""
    known, found = task.facts, task.blocks()
    start = done = 0 if within is None else within.start
    size = min(batch_size(task), _through_model(task, found))
    checks = BatchChecks(task.model)
    sound = torch.ones((), dtype=torch.bool, device=task.device)
    for number, (x, y) in enumerate(task.batches(size, part, within)):

        def of_batch(x: Tensor = x, y: Tensor = y, number: int = number) -> Tensor:
            layers = found if known is task.facts else task.blocks()
            if task.facts.picks:
                checks.see(x, layers, number)
            return exact_gradients(task.model, loss, x, y, layers)

        with in_part(task.model, x, part, done):
            v = task.retried(of_batch)
        if waits(task.device):
            # Read once, when all batches are queued.
            sound &= torch.isfinite(v).all()
        elif not all_finite(v):
            raise _not_finite(task, loss, part, range(done, done + len(v)))
        yield v
        done += len(v)
    checks.settle(lambda: (x for x, _ in task.batches(size, part, within)))
    if not bool(sound):
        raise _not_finite(task, loss, part, range(start, done))


def query_gradients(task: Task, cost: Loss, weights: Tensor | None = None) -> Tensor:
    """Gradients of every query `[Q, P]`, or of groups of them `[G, P]`, added up by weights `[G, Q]`."""
    if weights is None:
        return torch.cat(list(gradient_batches(task, cost, "query")))
    total = torch.zeros(len(weights), task.P, dtype=task.precision, device=task.device)
    done = 0
    for v in gradient_batches(task, cost, "query"):
        total += weights[:, done : done + len(v)] @ v
        done += len(v)
    return total


def product(operator: Operator, rows: Tensor) -> Tensor:
    """C v for every row v of `[n, P]`, computed in the operator's precision, returned in the rows'."""
    return (operator @ rows.to(operator.dtype).T).T.to(rows.dtype)


def batch_size(task: Task, columns: int = 1) -> int:
    """Examples whose gradients, `columns` of them each, are held at once."""
    size = torch.empty((), dtype=task.precision).element_size()
    return max(1, min(MOST, allowance(GRADIENT_BYTES, BATCH_SHARE) // (size * task.P * columns)))


def _through_model(task: Task, layers: Sequence[LayerBlock]) -> int:
    """Examples whose gradients are computed at once, by what the model holds of them."""
    each = activation_bytes(task, task.loss, layers, Fisher("empirical"), MOST)
    return max(1, allowance(GRADIENT_BYTES, BATCH_SHARE) // max(1, each))


def check_scores(
    scores: Iterable[Tensor],
    task: Task,
    cost: Loss | None = None,
    parts: Iterable[str] = ("query", "train"),
) -> None:
    """Scores are finite.

    Args:
        scores: All of them.
        task: The examples they are between.
        cost: What the queries were asked for; their loss where not given.
        parts: The parts they are between.

    Raises:
        SpecError: E0420 naming an example of a part, else E0794.
    """
    if all(map(all_finite, scores)):
        return
    for part in parts:
        loss = task.loss if part == "train" or cost is None else cost
        check_examples_finite(task.model, loss, *task.part(part), part)
    raise refusal(
        Code.E0794,
        "scores are not finite, though the loss and the gradient of every example are",
        "give a larger `damping`; where numbers are very large, compute in float64: "
        "`task.to(dtype=torch.float64)`",
    )


def _not_finite(task: Task, loss: Loss, part: str, examples: range) -> SpecError:
    """The refusal of gradients of consecutive examples of which one is not finite.

    Raises:
        SpecError: E0420, where it is autograd's too.
    """
    X, y = (x[examples.start : examples.stop] for x in task.part(part))
    check_examples_finite(task.model, loss, X, y, part, list(examples))
    return refusal(
        Code.E0794,
        f"a gradient of the examples {examples.start} to {examples.stop - 1} of `{part}` is not finite, "
        "though autograd's is",
        "numbers are very large: compute in float64, `task.to(dtype=torch.float64)`",
    )
