"""The trained model that scores are computed at: one more training on the retraining engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.execution.process_state import kept_streams
from curvlang.models.origin import Origin
from curvlang.models.recipe import Recipe
from curvlang.models.task import Task
from curvlang.training.built import built
from curvlang.training.retrain import retrain
from curvlang.training.subsets import derived_seed
from curvlang.training.training import all_members, training_of


@kept_streams()
def train_baseline(
    task: Task, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> Task:
    """The task with its model trained on all examples.

    Args:
        task: With `build` and `recipe`.
        seed: Of the initialisation; the minibatches have a seed derived from it.
        progress: Called after every epoch.

    Raises:
        SpecError: E0503 for a task without `build` or `recipe`, E0504 where training diverges.
    """
    training = training_of(task, all_members(task), [seed], [derived_seed(seed, 3)])
    recipe = training.recipe
    found = retrain(
        training,
        keep_parameters=True,
        progress=None if progress is None else partial(progress, "training"),
    )
    if bool(found.diverged[0]):
        first, last = (float(found.curve[0, k]) for k in (0, -1))
        raise diverged(
            f"the model diverged in training: its loss went from {first:.3g} in the first epoch to "
            f"{last:.3g} in the last",
            recipe,
            "a diverged model has no influence scores",
        )
    assert found.parameters is not None
    values = {n: p[0] for n, p in found.parameters.items()}
    return filled(task, seed, values, _trained_by(recipe, found.curve[0], seed))


def filled(task: Task, seed: int, values: Mapping[str, torch.Tensor], origin: Origin) -> Task:
    """The task with a model of these parameters.

    Args:
        task: With `build`.
        seed: Of the initialisation; what is not trained has its values.
        values: Trained parameters by name.
        origin: Where they come from.
    """
    training = training_of(task, all_members(task), [seed], [derived_seed(seed, 3)])
    (model,) = built(training.build, [seed], task.train[0], training.home)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in values:
                parameter.copy_(values[name])
    return task.with_model(model.eval(), origin)


def diverged(headline: str, recipe: Recipe, note: str) -> SpecError:
    """The refusal of models whose losses grew without bound in training."""
    repair = f"lower the learning rate (`lr = {recipe.lr:g}`)"
    return refusal(Code.E0504, headline, repair, notes=(note,))


def _trained_by(recipe: Recipe, curve: torch.Tensor, seed: int) -> Origin:
    """How the model was trained and where its loss ended."""
    if not recipe.epochs:
        return Origin("as initialised: trained here for no epoch", seed=seed)
    said = {k: f"{v:g}" if isinstance(v, float) else v for k, v in recipe.settings.items()}
    name = said.pop("optimiser")
    given = ", ".join(f"{k} = {v}" for k, v in said.items())
    return Origin(
        f"trained here by {name}({given}); final training loss {float(curve[-1]):.3g}", seed=seed
    )
