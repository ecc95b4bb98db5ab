"""Tasks that a spec describes: built-in data and models by name, ready for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from curvlang.language.chain import Part, TaskSpec
from curvlang.models.arguments import Parameter, Signature, arguments, choose, placed
from curvlang.models.data import SCALES, Data, digits
from curvlang.models.losses import loss_from
from curvlang.models.mlp import ACTIVATIONS, POOLING, mlp
from curvlang.models.random_data import random_data
from curvlang.models.recipe import Recipe
from curvlang.models.refusal import refusal
from curvlang.models.task import Task


@dataclass(frozen=True, slots=True)
class Entry:
    """A built-in: what makes it and which parameters it takes."""

    make: Callable[..., Any]
    signature: Signature


def _mlp(data: Data, generator: Generator, positions: str, **values: Any) -> nn.Module:
    # A single position has no axis of its own, and nothing to be averaged over.
    kept = positions if data.positions > 1 else "kept"
    return mlp(data.inputs, data.outputs, generator=generator, positions=kept, **values)


DATA: Mapping[str, Entry] = {
    "digits": Entry(
        digits,
        {
            "test": Parameter("number", 0.1),
            "seed": Parameter("integer", 0),
            "scale": Parameter("word", "standard", SCALES),
        },
    ),
    "random": Entry(
        random_data,
        {
            "examples": Parameter("integer", 8),
            "inputs": Parameter("integer", 3),
            "outputs": Parameter("integer", 3),
            "positions": Parameter("integer", 1),
            "seed": Parameter("integer", 0),
        },
    ),
}
"""Built-in data; each entry makes a `Data`."""

MODELS: Mapping[str, Entry] = {
    "mlp": Entry(
        _mlp,
        {
            "hidden": Parameter("integers", (16,)),
            "activation": Parameter("word", "tanh", tuple(ACTIVATIONS)),
            "bias": Parameter("boolean", False),
            "positions": Parameter("word", "kept", tuple(POOLING)),
        },
    ),
}
"""Built-in models; each entry makes a module from the data, a generator and its parameters."""

TRAINERS: Mapping[str, Entry] = {
    "sgd": Entry(
        Recipe,
        {
            "lr": Parameter("number", 0.03),
            "momentum": Parameter("number", 0.0),
            "batch": Parameter("integer", 32),
            "epochs": Parameter("integer", 100),
            "schedule": Parameter("word", "cosine", ("cosine", "constant")),
            "weight_decay": Parameter("number", 0.0),
        },
    ),
}
"""Ways to train; each entry makes a `Recipe`."""


@dataclass(frozen=True, slots=True, eq=False)
class Build:
    """A fresh, untrained model for a seed, float32 on the CPU."""

    part: Part
    data: Data

    def __call__(self, seed: int) -> nn.Module:
        """The model whose parameters a generator with this seed draws."""
        entry = choose(MODELS, self.part, "model")
        values = arguments(self.part, entry.signature)
        with placed(self.part.span):
            made: nn.Module = entry.make(self.data, Generator().manual_seed(seed), **values)
        return made


def task_from(
    spec: TaskSpec,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Task:
    """The task that a spec describes, its model initialised with `seed` and not trained.

    Args:
        spec: The task with every parameter known.
        seed: Of the model's initialisation; the data's own seed is part of the spec.
        dtype: Precision of model and data.
        device: Where both live.

    Returns:
        A task whose `build` makes fresh models and whose `recipe` says how to train them.

    Raises:
        SpecError: E0411 for an unknown name, E0412 for a bad argument, at the line of the task.
    """
    loss = loss_from(spec.loss)
    recipe = recipe_from(spec.train)
    entry = choose(DATA, spec.data, "data set")
    with placed(spec.data.span):
        data: Data = entry.make(**arguments(spec.data, entry.signature))
    build = Build(spec.model, data)
    model = build(seed)
    task = Task(
        model,
        loss,
        _part("train", data.train, data, model, loss.name),
        _part("query", data.query, data, model, loss.name),
        recipe=recipe,
        name=spec.name,
        build=build,
    )
    return task.to(dtype=dtype, device=device)


def recipe_from(part: Part) -> Recipe:
    """The recipe of a `train` line.

    Raises:
        SpecError: E0411, E0412 at the line.
    """
    entry = choose(TRAINERS, part, "way to train")
    recipe: Recipe = entry.make(**arguments(part, entry.signature))
    limits = {
        "lr": recipe.lr > 0,
        "momentum": 0 <= recipe.momentum < 1,
        "batch": recipe.batch >= 1,
        "epochs": recipe.epochs >= 0,
        "weight_decay": recipe.weight_decay >= 0,
    }
    for name, fine in limits.items():
        if not fine:
            raise refusal(
                "E0412",
                f"`{name} = {getattr(recipe, name):g}` is out of range",
                "lr > 0, 0 <= momentum < 1, batch >= 1, epochs >= 0, weight_decay >= 0",
                span=part.span,
                label="in this line",
            )
    return recipe


def _part(
    name: str, pair: tuple[Tensor, Tensor], data: Data, model: nn.Module, loss: str
) -> tuple[Tensor, Tensor]:
    """Drawn targets, class numbers for cross-entropy, one-hot numbers for other losses."""
    X, y = pair
    if data.targets is not None:
        with torch.no_grad():
            return X, data.targets(name, loss, model(X).shape)
    if loss == "cross_entropy":
        return pair
    return X, functional.one_hot(y, data.outputs).to(X.dtype)
