"""The trained model that scores are computed at: one more training on the retraining engine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.recipe import Recipe
from curvlang.models.task import Origin, Task
from curvlang.training.built import built
from curvlang.training.retrain import retrain
from curvlang.training.subsets import derived_seed


def train_baseline(
    task: Task, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> Task:
    """The task with its model trained on all examples.

    Args:
        task: With `build` and `recipe`.
        seed: Of the initialisation; the minibatches have a seed derived from it.
        progress: Told about every epoch.

    Raises:
        SpecError: E0504 where training diverges.
    """
    assert task.build is not None
    assert task.recipe is not None
    recipe = task.recipe

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress("training", done, total)

    found = retrain(
        task.build,
        task.loss,
        task.train,
        task.query,
        torch.ones(1, task.N, dtype=torch.bool),
        recipe,
        [seed],
        [derived_seed(seed, 3)],
        keep_parameters=True,
        progress=told,
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
    (model,) = built(task.build, [seed], task.train[0])
    filled = _filled(model, {n: p[0] for n, p in found.parameters.items()})
    return task.with_model(filled, _trained_by(recipe, found.curve[0]))


def diverged(headline: str, recipe: Recipe, note: str) -> SpecError:
    """The refusal of models whose losses grew without bound in training."""
    repair = f"lower the learning rate (`lr = {recipe.lr:g}`)"
    return refusal(Code.E0504, headline, repair, notes=(note,))


def _trained_by(recipe: Recipe, curve: torch.Tensor) -> Origin:
    """How the model was trained and where its loss ended."""
    if not recipe.epochs:
        return Origin("as initialised: trained here for no epoch")
    said = {k: f"{v:g}" if isinstance(v, float) else v for k, v in recipe.settings.items()}
    name = said.pop("optimiser")
    given = ", ".join(f"{k} = {v}" for k, v in said.items())
    return Origin(f"trained here by {name}({given}); final training loss {float(curve[-1]):.3g}")


def _filled(model: nn.Module, values: dict[str, torch.Tensor]) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in values:
                parameter.copy_(values[name])
    return model.eval()
