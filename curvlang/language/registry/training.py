"""Optimisers, checkpoints of a training and ensembles, with their parameters."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.language.registry.common import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_ZERO,
    NOT_NEGATIVE,
    POSITIVE,
)
from curvlang.language.registry.entry import Entry, Parameter
from curvlang.language.registry.kinds import Choice, NameList, NumberList, Truth


def _steps(lr: float) -> dict[str, Parameter]:
    """What every optimiser takes."""
    return {
        "lr": Parameter(POSITIVE, lr, "learning rate at the first step after the warmup"),
        "batch": Parameter(COUNT, 32, "examples of a minibatch"),
        "epochs": Parameter(COUNT_OR_ZERO, 100, "passes over the training examples"),
        "schedule": Parameter(
            Choice(("cosine", "constant", "linear")), "cosine", "how the learning rate falls"
        ),
        "warmup": Parameter(COUNT_OR_ZERO, 0, "steps over which the learning rate rises"),
        "clip": Parameter(NOT_NEGATIVE, 0.0, "largest norm of the gradient; 0 for no clipping"),
        "weight_decay": Parameter(NOT_NEGATIVE, 0.0, "weight of the decay of the parameters"),
    }


_ADAM: Mapping[str, Parameter] = {
    "beta1": Parameter(BELOW_ONE, 0.9, "decay of the mean of gradients"),
    "beta2": Parameter(BELOW_ONE, 0.999, "decay of the mean of squared gradients"),
    "eps": Parameter(POSITIVE, 1e-8, "added to the root of the mean of squared gradients"),
}

OPTIMISERS: Mapping[str, Entry] = {
    "sgd": Entry(
        "minibatch gradient descent with heavy-ball momentum; weight decay is an L2 term",
        {
            **_steps(0.03),
            "momentum": Parameter(BELOW_ONE, 0.0, "heavy-ball momentum"),
            "nesterov": Parameter(
                Truth(), False, "Nesterov's momentum; needs `momentum`", "momentum"
            ),
        },
    ),
    "adam": Entry("Adam; weight decay is an L2 term", {**_steps(0.003), **_ADAM}),
    "adamw": Entry(
        "Adam with decoupled weight decay, not an L2 term: it adds nothing to the Hessian",
        {**_steps(0.003), **_ADAM},
    ),
}

CHECKPOINTS: Mapping[str, Entry] = {
    "every": Entry(
        "models of the training, after every so many epochs or steps",
        {
            "epochs": Parameter(
                COUNT_OR_ZERO, 0, "epochs between two of them; 0 where `steps` says"
            ),
            "steps": Parameter(COUNT_OR_ZERO, 0, "steps between two of them"),
        },
    ),
    "segments": Entry(
        "parts of the training with equally many steps, each with models in the middle of equal parts of it",
        {
            "count": Parameter(COUNT, None, "parts of the training"),
            "models": Parameter(COUNT, 1, "models of each, over which its curvature is fitted"),
        },
    ),
    "files": Entry(
        "models whose parameters are in files",
        {
            "paths": Parameter(NameList(), None, "files of parameters, the earliest first"),
            "rates": Parameter(
                NumberList(POSITIVE), (), "the learning rate at each; 1 where not given"
            ),
        },
    ),
}

ENSEMBLES: Mapping[str, Entry] = {
    "trained": Entry(
        "models trained alike from other seeds, beside the evaluated one",
        {"count": Parameter(COUNT, None, "how many there are with the evaluated one")},
    ),
}

OPTIMISER = Parameter(Choice(tuple(OPTIMISERS)), "sgd", "how parameters are updated")
"""The choice of one of them, in Python's `Recipe`."""
