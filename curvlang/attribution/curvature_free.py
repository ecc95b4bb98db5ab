"""Curvature-free baselines: scores of other kinds, judged by the same ground truth.

Every baseline gives scores `[Q, N]` in the convention of influence: positive where training on n
should lower the query's loss. The gradient's dot product is the curvature `identity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curvlang.attribution.formulas.formula_scores import (
    formula_scores,
    program_of,
    with_queries,
)
from curvlang.attribution.formulas.points import Point
from curvlang.attribution.formulas.surroundings import check_surroundings, surroundings
from curvlang.attribution.gradients import gradient_batches
from curvlang.attribution.metagradient import metagradient_scores
from curvlang.attribution.source import check_source, source_scores
from curvlang.attribution.streams.request import Request
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.language import score_text
from curvlang.language.chain import Curvature, Part, ScoreFormula
from curvlang.models.arguments import placed
from curvlang.models.execution.widened import accumulation_dtype
from curvlang.models.losses.metric import Metric
from curvlang.models.task import Task
from curvlang.operators import Identity
from curvlang.runtime.limits.activations import forward_batch
from curvlang.training.baseline import train_baseline
from curvlang.training.replay import check_followed, not_followed
from curvlang.training.subsets import derived_seed, without_classes
from curvlang.training.training import check_trainable


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a baseline is computed from.

    Args:
        base: The trained task in the precision of training.
        task: The same in the precision of the analysis.
        queries: How many of the queries are scored, from the first.
        seed: Of the model's initialisation.
    """

    base: Task
    task: Task
    queries: int
    seed: int

    @property
    def scored(self) -> Task:
        """The task with the queries that are scored."""
        return _first(self.task, self.queries)


def _first(task: Task, queries: int) -> Task:
    return task.queries(slice(queries))


def gradient_cosine(given: Setting) -> Tensor:
    """The score of that name: which way gradients point, not how far."""
    return formula_baseline(score_text("gradient_cosine", "<baseline>"), given)


def formula_baseline(formula: ScoreFormula, given: Setting) -> Tensor:
    """A score that no curvature has a part in."""
    task, program = given.scored, program_of(formula)
    exact = accumulation_dtype(task.device)
    one = torch.ones((), dtype=exact, device=task.device)
    points = surroundings(formula, program, task).points(Point(task, Identity(one, task.P)))
    return formula_scores(program, points, task.loss, Request())


def representation_cosine(given: Setting) -> Tensor:
    """Cosine of what enters the last module that has parameters, in the order of definition."""
    query = _unit(torch.cat(list(_representations(given.scored, "query"))))
    rows = _representations(given.task, "train")
    return torch.cat([query @ _unit(x).T for x in rows], 1)


def projected_ensemble(given: Setting, models: int, dimension: int, seed: int) -> Tensor:
    """Randomly projected gradients of the margin, whitened, over several models.

    score[q,n] = mean_m φ_q (ΦᵀΦ)⁻¹ φ_n · mean_m (1 − p_n), with φ = Pᵀ∇log(p/(1 − p)) of the true
    class: TRAK of Park et al. 2023 (arXiv:2303.14186). As ∇log(p/(1 − p)) = −∇ℓ/(1 − p), the
    gradients of the losses suffice.

    Args:
        given: Its task needs classes, `build` and `recipe`.
        models: Trained models, the evaluated one the first.
        dimension: Columns of P, at most the parameters; below N.
        seed: Of the projections.

    Raises:
        SpecError: E0508 where the loss has no margin, E0795 where the projection is too wide for N.
    """
    check_ensemble(given.task, dimension)
    exact = accumulation_dtype(given.task.device)
    kernel = torch.zeros(given.queries, given.task.N, dtype=exact, device=given.task.device)
    weight = kernel.new_zeros(given.task.N)
    for m in range(models):
        task = _member(given, m)
        project = _projection(task, dimension, derived_seed(seed, 11, m))
        doubt = _doubt(task, "train").to(exact)
        phi = _features(task, "train", doubt, project)
        ask = _features(task, "query", _doubt(task, "query").to(exact), project)
        kernel += ask @ torch.linalg.solve(phi.T @ phi, phi.T) / models
        weight += doubt / models
    return kernel * weight


def metagradient(given: Setting, models: int) -> Tensor:
    """Through every step of training; the mean over models trained from other seeds.

    Args:
        given: Its task needs `build` and `recipe`.
        models: Trainings, the evaluated one the first.
    """
    queries = torch.arange(given.queries, device=given.task.device)
    found = [metagradient_scores(given.task, queries, seed) for seed in _seeds(given, models)]
    return torch.stack(found).mean(0).to(accumulation_dtype(given.task.device))


def source(
    given: Setting, curvature: Curvature, segments: int, checkpoints: int, models: int
) -> Tensor:
    """Through training in segments, in each of which curvature and gradients stay what they are.

    Args:
        given: Its tasks need `build` and `recipe`.
        curvature: The structure that the curvature of a segment has.
        segments: Parts of the training, of as many steps each.
        checkpoints: Models of each that gradients and curvature are means over.
        models: Trainings, the evaluated one the first; the mean of their scores.
    """
    cuts = (segments, checkpoints)
    found = [
        source_scores(given.base, given.task, given.queries, seed, curvature, cuts)
        for seed in _seeds(given, models)
    ]
    return torch.stack(found).mean(0).to(accumulation_dtype(given.task.device))


BASELINES: Mapping[str, Callable[..., Tensor]] = {
    "metagradient": metagradient,
    "source": source,
    "gradient_cosine": gradient_cosine,
    "representation_cosine": representation_cosine,
    "projected_ensemble": projected_ensemble,
}
"""By the name that a study gives; signatures stand in `language.registry`."""


FOLLOWING = ("metagradient", "source")
"""Baselines that go through the training again."""


def check_baselines(parts: Sequence[Part], task: Task, metric: str | Metric = "loss") -> None:
    """Refuse, before anything is trained, what could not be scored after it.

    Args:
        parts: The baselines.
        task: Its model need not be trained.
        metric: What the queries are scored by.

    Raises:
        SpecError: E0503 where the model cannot be trained again, E0508 and E0795 where
            `projected_ensemble` does not apply, E0509 where the training cannot be followed, E0511
            for another metric than the loss.
    """
    for part in parts:
        with placed(part.span):
            if metric != "loss":
                raise _of_the_loss(part)
            if part.score is not None:
                check_surroundings(part.score, with_queries(part.score), task)
            elif part.name in FOLLOWING:
                _check_followed(part, task)
            elif part.name == "projected_ensemble":
                check_ensemble(task, part.arguments["dimension"])
                if part.arguments["models"] != 1:
                    check_trainable(task, f"`{part.name}`")


def _check_followed(part: Part, task: Task) -> None:
    if task.origin.elsewhere:
        raise _not_trained_here(part, task)
    check_trainable(task, f"`{part.name}`")
    assert task.recipe is not None
    check_followed(part.name, task.recipe)
    if part.name == "source":
        segments, checkpoints = (part.arguments[x] for x in ("segments", "checkpoints"))
        assert isinstance(segments, int)
        assert isinstance(checkpoints, int)
        check_source(task, segments, checkpoints)


def check_ensemble(task: Task, dimension: Any) -> None:
    """Refuse a task that `projected_ensemble` does not apply to.

    Raises:
        SpecError: E0508 where the loss has no margin, E0795 where the projection is too wide for N.
    """
    if task.loss.name != "cross_entropy":
        raise without_classes("`projected_ensemble` needs the margin of a class", task)
    if min(dimension, task.P) >= task.N:
        raise _too_wide(task, dimension)


def baseline_scores(part: Part, given: Setting) -> Tensor:
    """The scores `[Q, N]` of the baseline that a study's line names."""
    if part.score is not None:
        return formula_baseline(part.score, given)
    arguments: dict[str, Any] = dict(part.arguments)
    if part.curvature is not None:
        arguments["curvature"] = part.curvature
    return BASELINES[part.name](given, **arguments)


def _seeds(given: Setting, models: int) -> list[int]:
    """Of the evaluated model, then of others."""
    return [_seed(given, m) for m in range(models)]


def _seed(given: Setting, number: int) -> int:
    return given.seed if number == 0 else derived_seed(given.seed, 10, number)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def _gradients(task: Task, part: str) -> Iterator[Tensor]:
    """Gradients of the losses, `[B, P]`."""
    exact = accumulation_dtype(task.device)
    return (v.to(exact) for v in gradient_batches(task, task.loss, part))


def _representations(task: Task, part: str) -> Iterator[Tensor]:
    """`[B, D]` inputs of the last module with parameters of its own, flattened."""
    own = [m for m in task.model.modules() if any(True for _ in m.parameters(recurse=False))]
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].detach().flatten(1))

    for x, _ in task.batches(forward_batch(task, part), part):
        handle = own[-1].register_forward_pre_hook(keep)
        try:
            with torch.no_grad():
                task.model(x)
        finally:
            handle.remove()
        yield torch.cat(found).to(accumulation_dtype(task.device))
        found.clear()


def _member(given: Setting, number: int) -> Task:
    """The evaluated model, then models trained alike from other seeds."""
    if number == 0:
        return given.scored
    base = train_baseline(given.base, _seed(given, number))
    return _first(base.to(dtype=given.task.dtype), given.queries)


def _doubt(task: Task, part: str) -> Tensor:
    """1 − p of the true class, from the loss −log p."""
    with torch.no_grad():
        batches = task.batches(forward_batch(task, part), part)
        pieces = [task.loss.per_example(task.model(x), y) for x, y in batches]
    return -torch.expm1(-torch.cat(pieces))


def _margin(gradient: Tensor, doubt: Tensor) -> Tensor:
    """∇log(p/(1 − p)) = −∇ℓ/(1 − p); 0 where p is 1 to the last digit."""
    sure = doubt <= 0
    return torch.where(sure[:, None], 0.0, -gradient / torch.where(sure, 1.0, doubt)[:, None])


def _projection(task: Task, dimension: int, seed: int) -> Tensor | None:
    """A standard normal matrix `[P, dimension]`; None where gradients are no longer than that."""
    if dimension >= task.P:
        return None
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(task.P, dimension, generator=generator, dtype=torch.float64)
    exact = accumulation_dtype(task.device)
    return matrix.div_(dimension**0.5).to(task.device, exact)


def _features(task: Task, part: str, doubt: Tensor, matrix: Tensor | None) -> Tensor:
    """Projected gradients of the margin, a batch of gradients at a time."""
    found: list[Tensor] = []
    done = 0
    for v in _gradients(task, part):
        rows = _margin(v, doubt[done : done + len(v)])
        found.append(rows if matrix is None else rows @ matrix)
        done += len(v)
    return torch.cat(found)


def _of_the_loss(part: Part) -> SpecError:
    return refusal(
        Code.E0511,
        f"the baseline `{part.name}` scores the loss of the queries, and the metric is another one",
        "leave it out, or take `loss` as the metric",
    )


def _not_trained_here(part: Part, task: Task) -> SpecError:
    return not_followed(
        part.name,
        f"the model was not trained here: its parameters are {task.origin.text}",
        f"leave out the baseline, or {task.origin.instead}",
    )


def _too_wide(task: Task, dimension: int) -> SpecError:
    return refusal(
        Code.E0795,
        f"`projected_ensemble` inverts a matrix of {min(dimension, task.P)} rows, and the projected "
        f"gradients of {task.N} examples leave it singular",
        f"give `dimension` less than {task.N}",
    )
