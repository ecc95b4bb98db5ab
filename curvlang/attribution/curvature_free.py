"""Baselines that are not formulas of gradients: scores of other kinds, judged by the same ground truth.

Every baseline gives scores `[Q, N]` in the convention of influence: positive where training on n
should lower the query's loss. Those that are formulas are in `specs/scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvlang.attribution.formulas.formula_scores import with_queries
from curvlang.attribution.formulas.surroundings import check_surroundings
from curvlang.attribution.metagradient import metagradient_scores
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.language.chain import Part
from curvlang.models.arguments import placed
from curvlang.models.execution.widened import accumulation_dtype
from curvlang.models.losses.metric import Metric
from curvlang.models.task import Task
from curvlang.runtime.limits.activations import forward_batch
from curvlang.training.replay import check_followed, not_followed
from curvlang.training.subsets import derived_seed
from curvlang.training.training import check_trainable


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What a baseline is computed from.

    Args:
        task: The trained task in the precision of the analysis.
        queries: How many of the queries are scored, from the first.
        seed: Of the model's initialisation.
    """

    task: Task
    queries: int
    seed: int

    @property
    def scored(self) -> Task:
        """The task with the queries that are scored."""
        return self.task.queries(slice(self.queries))


def representation_cosine(given: Setting) -> Tensor:
    """Cosine of what enters the last module that has parameters, in the order of definition."""
    query = _unit(torch.cat(list(_representations(given.scored, "query"))))
    rows = _representations(given.task, "train")
    return torch.cat([query @ _unit(x).T for x in rows], 1)


def metagradient(given: Setting, models: int) -> Tensor:
    """Through every step of training; the mean over models trained from other seeds.

    Args:
        given: Its task needs `build` and `recipe`.
        models: Trainings, the evaluated one the first.
    """
    queries = torch.arange(given.queries, device=given.task.device)
    found = [metagradient_scores(given.task, queries, seed) for seed in _seeds(given, models)]
    return torch.stack(found).mean(0).to(accumulation_dtype(given.task.device))


BASELINES: Mapping[str, Callable[..., Tensor]] = {
    "metagradient": metagradient,
    "representation_cosine": representation_cosine,
}
"""By the name that a study gives; signatures stand in `language.registry`."""


def check_baselines(parts: Sequence[Part], task: Task, metric: str | Metric = "loss") -> None:
    """Refuse, before anything is trained, what could not be scored after it.

    Args:
        parts: The baselines.
        task: Its model need not be trained.
        metric: What the queries are scored by.

    Raises:
        SpecError: E0503 where the model cannot be trained again, E0509 where the training cannot be
            followed, E0511 for another metric than the loss; as `check_surroundings` for formulas.
    """
    for part in parts:
        with placed(part.span):
            if part.score is not None:
                check_surroundings(part.score, with_queries(part.score), task)
                continue
            if metric != "loss":
                raise _of_the_loss(part)
            if part.name == "metagradient":
                _check_followed(part, task)


def _check_followed(part: Part, task: Task) -> None:
    if task.origin.elsewhere:
        raise _not_trained_here(part, task)
    check_trainable(task, f"`{part.name}`")
    assert task.recipe is not None
    check_followed(part.name, task.recipe)


def baseline_scores(part: Part, given: Setting) -> Tensor:
    """The scores `[Q, N]` of a baseline that is not a formula."""
    return BASELINES[part.name](given, **part.arguments)


def _seeds(given: Setting, models: int) -> list[int]:
    """Of the evaluated model, then of others."""
    return [_seed(given, m) for m in range(models)]


def _seed(given: Setting, number: int) -> int:
    return given.seed if number == 0 else derived_seed(given.seed, 10, number)


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


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
