"""Scores and gradients are finite, or the example that is to blame is named."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.losses.finite import all_finite, check_examples_finite
from curvlang.models.losses.loss import Loss
from curvlang.models.task import Task


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


def check_gradients(v: Tensor, task: Task, loss: Loss, part: str, start: int) -> None:
    """Gradients [B, P] of consecutive examples, from the number `start` on, are finite.

    Raises:
        SpecError: E0420, else E0794.
    """
    if all_finite(v):
        return
    X, y = (x[start : start + len(v)] for x in task.part(part))
    check_examples_finite(task.model, loss, X, y, part, list(range(start, start + len(v))))
    raise refusal(
        Code.E0794,
        f"a gradient of the examples {start} to {start + len(v) - 1} of `{part}` is not finite, "
        "though autograd's is",
        "numbers are very large: compute in float64, `task.to(dtype=torch.float64)`",
    )
