"""Every optimiser, schedule and clipping against a plain loop around `torch.optim`."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language.registry import OPTIMISERS as TABLE
from curvlang.language.registry.kind_words import in_words
from curvlang.models.losses.losses import loss_named
from curvlang.training.orders import learning_rate
from curvlang.training.retrain import retrain
from curvlang.training.training import Training
from tests.training.test_retrain import data, reference_loop
from tests.training.test_retrain_grid import builder, subsets

CLOSE = 1e-9  # float64
OPTIMISERS = {
    "sgd": {},
    "momentum": {"momentum": 0.7},
    "nesterov": {"momentum": 0.7, "nesterov": True},
    "adam": {"optimiser": "adam"},
    "adam_other_means": {"optimiser": "adam", "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
    "adamw": {"optimiser": "adamw"},
}


@pytest.mark.parametrize(
    ("optimiser", "schedule", "warmup", "clip"),
    [
        *itertools.product(
            OPTIMISERS, in_words(TABLE["sgd"].parameters["schedule"].kind).words, [0, 3], [0.0, 0.3]
        )
    ],
)
@pytest.mark.parametrize(("generic", "bias"), [(False, True), (False, False), (True, True)])
def test_equals_the_loop(optimiser, schedule, warmup, clip, generic, bias):
    build, (train, query) = builder([4], bias), data("cross_entropy")
    options = OPTIMISERS[optimiser]
    recipe = cv.Recipe(
        0.05, batch=4, epochs=2, schedule=schedule, weight_decay=0.02, warmup=warmup, clip=clip
    )
    recipe = replace(recipe, **options)
    members = subsets((17, 9))
    seeds = [0, 1]
    found = retrain(Training(build, "cross_entropy", train, query, members, recipe, seeds, seeds), generic=generic, keep_parameters=True)  # fmt: skip
    for k in seeds:
        curve, model = reference_loop(build, "cross_entropy", train, members[k], recipe, k, k)
        assert float((found.curve[k] - curve).abs().max()) <= CLOSE
        for name, p in model.named_parameters():
            assert float((found.parameters[name][k] - p.detach()).abs().max()) <= CLOSE
        with torch.no_grad():
            wanted = loss_named("cross_entropy").per_example(model(query[0]), query[1])
        assert float((found.query_loss[k] - wanted).abs().max()) <= CLOSE


def test_the_options_matter():
    """The twin: every option changes the trained model, so that equality above means something."""
    build, (train, query) = builder([4], True), data("cross_entropy")
    base = cv.Recipe(0.05, batch=4, epochs=2, weight_decay=0.02)
    changes = [
        {}, {"warmup": 3}, {"clip": 0.3}, {"schedule": "linear"}, *OPTIMISERS.values(),
    ][:4] + [*OPTIMISERS.values()][1:]  # fmt: skip
    outcomes = [
        retrain(
            Training(
                build, "cross_entropy", train, query, subsets((17,)), replace(base, **c), [0], [0]
            )
        ).query_loss
        for c in changes
    ]
    for a, b in itertools.combinations(outcomes, 2):
        assert float((a - b).abs().max()) > 1e-5


def test_learning_rates():
    recipe = cv.Recipe(1.0, schedule="linear", warmup=4)
    rates = [learning_rate(recipe, k, 8) for k in range(8)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(cv.Recipe(1.0, warmup=2), 2, 6) == 1.0
    assert learning_rate(cv.Recipe(1.0, schedule="constant", warmup=9), 3, 4) == 4 / 9


def test_a_stack_of_any_modules_trains_alike():
    """Convolution, embedding and norm layers in the stack, against the loop."""

    class Tokens(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(7, 6)
            self.norm = nn.LayerNorm(6)
            self.mix = nn.Conv1d(6, 6, 3, padding=1, groups=2)
            self.group = nn.GroupNorm(2, 6)
            self.head = nn.Linear(6, 3)
            self.double()

        def forward(self, x):
            h = self.norm(self.embedding(x)).mT
            return self.head(self.group(self.mix(h)).mean(-1))

    g = torch.Generator().manual_seed(0)
    X, y = torch.randint(0, 7, (30, 5), generator=g), torch.randint(0, 3, (30,), generator=g)
    recipe = cv.Recipe(0.01, batch=4, epochs=2, optimiser="adam", clip=1.0)
    members = subsets((17, 9))
    train, query = (X, y), (X[:4], y[:4])
    found = retrain(
        Training(Tokens, "cross_entropy", train, query, members, recipe, [0, 1], [0, 1])
    )
    for k in (0, 1):
        curve, _ = reference_loop(Tokens, "cross_entropy", train, members[k], recipe, k, k)
        assert float((found.curve[k] - curve).abs().max()) <= CLOSE


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr": 0}, "`lr = 0` is out of range"),
        ({"lr": float("inf")}, "`lr = inf` is out of range"),
        ({"momentum": 1.0}, "`momentum = 1` is out of range"),
        ({"schedule": "step"}, "`schedule = step` is not one of"),
        ({"optimiser": "lion"}, "unknown optimiser `lion`"),
        ({"warmup": -1}, "`warmup = -1` is out of range"),
        ({"clip": -1.0}, "`clip = -1` is out of range"),
        ({"optimiser": "adam", "beta2": 1.0}, "`beta2 = 1` is out of range"),
        ({"nesterov": True}, "`nesterov` needs `momentum`"),
        ({"optimiser": "adam", "momentum": 0.9}, "`adam` has no parameter `momentum`"),
        ({"optimiser": "adam", "nesterov": True}, "`adam` has no parameter `nesterov`"),
        ({"beta1": 0.5}, "`sgd` has no parameter `beta1`"),
    ],
)
def test_recipes_out_of_range_are_refused(options, named):
    with pytest.raises(SpecError) as caught:
        cv.Recipe(**options)
    assert [named in d.headline for d in caught.value.diagnostics] == [True]


def test_decoupled_decay_is_no_l2_term():
    """θ ← θ − lr·w·θ is the gradient of nothing: no λ·I, and an L2 term beside it is refused."""
    build, (train, query) = builder([4], True), data("cross_entropy")
    for optimiser, wanted in (("sgd", 0.1), ("adam", 0.1), ("adamw", 0.0)):
        recipe = cv.Recipe(optimiser=optimiser, weight_decay=0.1)
        task = cv.Task(build(0), train=train, query=query, recipe=recipe)
        assert task.weight_decay == wanted
    with pytest.raises(SpecError, match="E0412"):
        cv.Task(build(0), train=train, query=query, recipe=recipe, weight_decay=0.1)
