"""The law behind all scores: a compiled score gives what a direct reading of its text gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from curvlang.ir.expr import Index
from curvlang.ir.interpreter import Array
from curvlang.ir.score_reading import read_score
from curvlang.language.chain import ScoreFormula
from curvlang.models.task import Task
from curvlang.operators import Operator

BOUND = 1e-9
"""Of the largest score, in float64: sums in another order."""


def assert_score_as_written(
    formula: ScoreFormula,
    scores: Tensor,
    inverse: Operator,
    task: Task,
    functions: Mapping[str, Callable[..., Tensor]] | None = None,
) -> None:
    """Scores of a small task are those that a direct reading of their text gives.

    Args:
        formula: The score.
        scores: As they were computed.
        inverse: C⁻¹, which is made dense.
        task: In float64.
        functions: As `scores_as_written` has them.

    Raises:
        AssertionError: Where they differ.
    """
    wanted = scores_as_written(formula, inverse.dense(), task, functions=functions)
    gap = float((scores - wanted).abs().max())
    scale = float(wanted.abs().max())
    assert gap <= BOUND * scale, (
        f"`{formula.name}` is off by {gap:.1e}, of scores up to {scale:.1e}"
    )


def scores_as_written(
    formula: ScoreFormula,
    inverse: Tensor,
    task: Task,
    rows: Tensor | None = None,
    functions: Mapping[str, Callable[..., Tensor]] | None = None,
) -> Tensor:
    """A score read directly: gradients example by example, C⁻¹ as a matrix.

    Args:
        formula: The score.
        inverse: C⁻¹ [P, P].
        task: Queries and training examples.
        rows: Gradients of queries or of groups of them; those of the queries' losses where not given.
        functions: What `apply` applies at the evaluated model, by name: f(C) [P, P] for the numbers that it
            is given.

    Raises:
        AssertionError: For a function that is not among them, or is applied at other models.
    """
    u = gradients_one_by_one(task, "query") if rows is None else rows
    v = gradients_one_by_one(task, "train")
    leaves = {
        "u": (u.numpy(), (Index("q"), Index("p"))),
        "v": (v.numpy(), (Index("n"), Index("p"))),
    }
    sizes = {"q": len(u), "n": len(v), "p": v.shape[1]}
    needed = {x.name: leaves[x.name] for x in formula.needs}
    applied = {name: _as_array(f) for name, f in (functions or {}).items()}
    found = read_score(formula.body, needed, {(): inverse.numpy()}, sizes, applied)
    return torch.from_numpy(found)


def _as_array(matrix: Callable[..., Tensor]) -> Callable[..., Array]:
    return lambda *numbers: matrix(*numbers).numpy()


def gradients_one_by_one(task: Task, part: str) -> Tensor:
    """Gradients of the loss of every example, [n, P], a backward pass each."""
    X, y = task.part(part)
    named = dict(task.model.named_parameters())
    rows = []
    for k in range(len(X)):
        loss = task.loss.per_example(task.model(X[k : k + 1]), y[k : k + 1]).sum()
        found = torch.autograd.grad(loss, [named[name] for name in task.parameters])
        rows.append(torch.cat([g.reshape(-1) for g in found]))
    return torch.stack(rows)
