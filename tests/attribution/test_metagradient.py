"""Metagradients against differences of trainings whose examples weigh a little more or less."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution.metagradient import metagradient_scores
from curvlang.language import task_text
from curvlang.models.builtin import task_from
from curvlang.training.baseline import train_baseline
from curvlang.training.orders import Orders, learning_rate
from curvlang.training.subsets import derived_seed

DIFFERENCE = 1e-5  # central differences in float64: the error is its square


def small(train: str):
    text = f"digits(hidden = [3], epochs = 2, {train})"
    whole = task_from(task_text(text, "test"), dtype=torch.float64)
    X, y = whole.train
    return cv.Task(
        whole.model, whole.loss, (X[:40], y[:40]), (whole.query[0][:3], whole.query[1][:3]),
        recipe=whole.recipe, build=lambda seed: whole.build(seed).double(),
    )  # fmt: skip


def trained(task, weights):
    """Query losses after a plain loop over weighed losses."""
    recipe = task.recipe
    model = task.build(0)
    own = list(model.parameters())
    speed = [torch.zeros_like(p) for p in own]
    orders = Orders(torch.arange(task.N)[None], [derived_seed(0, 3)], recipe.batch)
    number, total = 0, orders.steps * recipe.epochs
    for _ in range(recipe.epochs):
        for rows in orders.epoch()[:, 0]:
            losses = task.loss.per_example(model(task.train[0][rows]), task.train[1][rows])
            gradient = torch.autograd.grad((weights[rows] * losses).sum() / len(rows), own)
            lr = learning_rate(recipe, number, total)
            with torch.no_grad():
                for k, p in enumerate(own):
                    speed[k] = recipe.momentum * speed[k] + gradient[k] + recipe.l2 * p
                    p -= lr * speed[k]
            number += 1
    with torch.no_grad():
        return task.loss.per_example(model(task.query[0]), task.query[1])


@pytest.mark.parametrize("train", ["batch = 8", "batch = 16, momentum = 0.9, weight_decay = 0.01"])
def test_it_is_the_derivative_of_the_whole_training(train):
    task = small(train)
    found = metagradient_scores(task, torch.arange(3), 0)
    for n in (0, 7, 31):
        ones = torch.ones(task.N, dtype=torch.float64)
        more, less = ones.clone(), ones.clone()
        more[n] += DIFFERENCE
        less[n] -= DIFFERENCE
        slope = (trained(task, more) - trained(task, less)) / (2 * DIFFERENCE)
        assert torch.allclose(found[:, n], -task.N * slope, rtol=1e-5, atol=1e-7)


def test_the_training_is_the_one_that_is_evaluated():
    task = small("batch = 8")
    base = train_baseline(task, 0)
    with torch.no_grad():
        losses = task.loss.per_example(base.model(task.query[0]), task.query[1])
    assert torch.allclose(losses, trained(task, torch.ones(task.N, dtype=torch.float64)))


def test_other_optimisers_are_refused():
    task = small("batch = 8")
    task.recipe = cv.Recipe(optimiser="adam", lr=0.01)
    with pytest.raises(cv.SpecError, match="E0509"):
        metagradient_scores(task, torch.arange(3), 0)
