"""The law behind all scores: a compiled score gives what a direct reading of its text gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.attribution.formulas.points import Point, Points, contexts
from curvlang.ir.expr import Index, Target
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


def scores_at(formula: ScoreFormula, points: Points, noise: float = 0.0) -> Tensor:
    """A score read directly, at the model, its checkpoints and the models of other seeds.

    Args:
        formula: The score.
        points: Where it is taken, each with its inverse.
        noise: Relative size of a change of every gradient: how far rounding moves the scores.
    """
    task, spaces = points.final.task, program_of(formula).solved_at
    rounding = np.random.default_rng(0)
    leaves = {}
    for need in formula.needs:
        values = _leaf(need, points).numpy()
        if noise and need.name in ("u", "v"):
            values = values * (1 + noise * rounding.standard_normal(values.shape))
        leaves[need.name] = values, need.indices
    inverses = {
        own: _over(tuple(map(Index, own)), points, lambda x: x.inverse.dense()).numpy()
        for own in spaces
    }
    sizes = {"q": task.Q, "n": task.N, "p": task.P, **points.lengths}
    return torch.from_numpy(read_score(formula.body, leaves, inverses, sizes))


def _leaf(need: Target, points: Points) -> Tensor:
    """A leaf with its axes, by plain automatic differentiation."""
    match need.name:
        case "rate":
            assert points.rates is not None
            return points.rates
        case "u" | "v" | "query_doubt" | "doubt" as name:
            part = "query" if name in ("u", "query_doubt") else "train"
            read = gradients_one_by_one if name in "uv" else _doubts
            return _over(need.indices, points, lambda x: read(x.task, part))
        case name:
            return _over(need.indices, points, lambda x: x.moments[name])


def _over(indices: Sequence[Index], points: Points, of: Callable[[Point], Tensor]) -> Tensor:
    """What every point has, with an axis in front for each index of models and checkpoints."""
    own = contexts(indices)
    found = [of(points.at(own, place)) for place in points.places(own)]
    sizes = [points.lengths[x.space] for x in own]
    return torch.stack(found).reshape(*sizes, *found[0].shape).detach().cpu()


def _doubts(task: Task, part: str) -> Tensor:
    """1 − p of every label, by the probabilities themselves."""
    X, y = task.part(part)
    with torch.no_grad():
        shares = torch.softmax(task.model(X[:]), -1)
    own = shares.gather(-1, y[:][..., None]).squeeze(-1)
    return 1 - own.reshape(len(own), -1).prod(1)


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
