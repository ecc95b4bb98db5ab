"""Stacked training against one model at a time with torch's own optimiser."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.models.architectures.mlp import ACTIVATIONS, mlp
from curvlang.models.losses.losses import loss_named
from curvlang.storage.cache import Cache
from curvlang.training.one_by_one import OneByOne
from curvlang.training.orders import epoch_order, learning_rate, steps_per_epoch
from curvlang.training.retrain import retrain
from curvlang.training.subsets import draw_subsets
from curvlang.training.training import Training
from curvlang.workers.executor import Execution
from tests.small import targets

EXACT = 1e-9  # float64, the same products in another order


def optimiser_of(recipe, model):
    """torch's own optimiser with the recipe's numbers."""
    common = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            model.parameters(), momentum=recipe.momentum, nesterov=recipe.nesterov, **common
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    betas = (recipe.beta1, recipe.beta2)
    return kind(model.parameters(), betas=betas, eps=recipe.eps, **common)


def reference_loop(build, loss, train, members, recipe, init_seed, order_seed):
    """The plain PyTorch loop over one model: the definition of what retraining computes."""
    model = build(init_seed)
    model = model.to(train[0].dtype) if train[0].is_floating_point() else model
    optimiser = optimiser_of(recipe, model)
    places = members.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(order_seed)
    steps = steps_per_epoch(len(places), recipe.batch)
    curve = []
    for epoch in range(recipe.epochs):
        order = places[epoch_order(generator, len(places))]
        total = 0.0
        for k in range(steps):
            rows = order[k * recipe.batch : (k + 1) * recipe.batch]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, epoch * steps + k, steps * recipe.epochs)
            optimiser.zero_grad()
            value = loss_named(loss).per_example(model(train[0][rows]), train[1][rows]).mean()
            value.backward()
            if recipe.clip:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimiser.step()
            total += value.item()
        curve.append(total / steps)
    return torch.tensor(curve, dtype=torch.float64), model


def data(loss, n=30, q=5):
    g = torch.Generator().manual_seed(0)
    X = torch.randn(n, 6, generator=g, dtype=torch.float64)
    y = targets(loss, (n, 3), g)
    return (X, y), (X[:q], y[:q])


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("generic", [False, True])
def test_equals_the_loop(loss, activation, generic):
    def build(seed):
        g = torch.Generator().manual_seed(seed)
        return mlp([6, 5, 4, 3], activation, True, g).double()

    train, query = data(loss)
    recipe = cv.Recipe(lr=0.05, momentum=0.6, batch=4, epochs=3, weight_decay=0.01)
    members = torch.zeros(3, 30, dtype=torch.bool)
    for k, size in enumerate((17, 9, 17)):
        members[k, torch.randperm(30, generator=torch.Generator().manual_seed(k))[:size]] = True
    found = retrain(
        Training(build, loss, train, query, members, recipe, [1, 2, 3], [4, 5, 6]), generic=generic
    )
    for k in range(3):
        curve, model = reference_loop(build, loss, train, members[k], recipe, k + 1, k + 4)
        assert float((found.curve[k] - curve).abs().max()) <= EXACT
        with torch.no_grad():
            wanted = loss_named(loss).per_example(model(query[0]), query[1])
        assert float((found.query_loss[k] - wanted).abs().max()) <= EXACT


def test_no_momentum_no_bias_one_short_batch():
    def build(seed):
        return mlp([6, 4, 3], "tanh", False, torch.Generator().manual_seed(seed)).double()

    train, query = data("cross_entropy")
    members = torch.zeros(1, 30, dtype=torch.bool)
    members[0, :5] = True
    recipe = cv.Recipe(lr=0.1, batch=32, epochs=4, schedule="constant")
    found = retrain(Training(build, "cross_entropy", train, query, members, recipe, [0], [0]))
    curve, _ = reference_loop(build, "cross_entropy", train, members[0], recipe, 0, 0)
    assert float((found.curve[0] - curve).abs().max()) <= EXACT


def small_task(lr=0.05, build=None):
    def make(seed):
        return mlp([6, 4, 3], "tanh", False, torch.Generator().manual_seed(seed)).double()

    train, query = data("cross_entropy")
    recipe = cv.Recipe(lr=lr, batch=4, epochs=2)
    return cv.Task(make(0), train=train, query=query, recipe=recipe, build=build or make)


class Counting(Cache):
    """Dies after some writes, as a killed run does."""

    def __init__(self, root, writes):
        super().__init__(root)
        self.left = writes

    def put(self, key, name, value):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().put(key, name, value)


def test_a_killed_run_goes_on_and_repeats_nothing(tmp_path):
    task, protocol = small_task(), cv.LDS(subsets=50, retrains=3)
    whole = ground_truth(task, protocol, 0, cache=Cache(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        ground_truth(task, protocol, 0, cache=Counting(tmp_path / "cut", 5))
    again = ground_truth(task, protocol, 0, cache=Cache(tmp_path / "cut"))
    assert again.reused > 0
    assert again.trained + again.reused == 150
    assert float((again.outcome - whole.outcome).abs().max()) <= EXACT
    third = ground_truth(task, protocol, 0, cache=Cache(tmp_path / "cut"))
    assert third.trained == 0
    assert torch.equal(third.outcome, again.outcome)
    more = ground_truth(task, cv.LDS(subsets=50, retrains=4), 0, cache=Cache(tmp_path / "cut"))
    assert more.trained == 50


def test_damaged_files_are_trained_again_and_reported(tmp_path):
    task, protocol = small_task(), cv.LDS(subsets=30, retrains=1)
    first = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
    for path in tmp_path.rglob("*.bin"):
        path.write_bytes(path.read_bytes()[:-3])
    again = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
    assert again.damaged
    assert torch.equal(first.outcome, again.outcome)
    for path in tmp_path.rglob("*.bin"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="not used: 2; their models were trained again"):
        cv.evaluate("identity", task, protocol=protocol, cache=Cache(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        cv.evaluate("identity", task, protocol=protocol, cache=Cache(tmp_path))


def test_a_model_trained_alone_after_a_kill_rounds_as_among_others(tmp_path):
    """26 subsets leave a stack of one: its stack must not take other kernels."""
    task, protocol = small_task(), cv.LDS(subsets=26, retrains=1)
    whole = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
    (alone,) = tmp_path.rglob("k25-1-r0-1@*.bin")
    alone.unlink()
    again = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
    assert (again.trained, again.reused) == (1, 25)
    assert torch.equal(whole.outcome, again.outcome)


def test_a_kill_costs_one_stack(tmp_path):
    """Killed in the middle of the second stack: the first is kept."""
    task, protocol = small_task(), cv.LDS(subsets=20, retrains=5)
    told = []

    def killed(name, done, total):
        told.append(done)
        if done > 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ground_truth(task, protocol, 0, cache=Cache(tmp_path), execution=Execution(progress=killed))
    again = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
    assert (again.reused, again.trained) == (20, 80)


def test_stacks_are_smaller_where_a_training_takes_long(tmp_path, monkeypatch):
    """By a count of operations, never by the time that a stack has taken."""
    trained = []
    from curvlang.evaluation.retraining import retraining as module

    def counted(training, **kwargs):
        trained.append(len(training.members))
        return retrain(training, **kwargs)

    monkeypatch.setattr(module, "retrain", counted)
    ground_truth(small_task(), cv.LDS(subsets=60, retrains=1), 0, cache=Cache(tmp_path / "fast"))
    assert trained == [25, 25, 10]
    trained.clear()
    monkeypatch.setattr(module, "OPERATIONS", 1.0)
    ground_truth(small_task(), cv.LDS(subsets=20, retrains=1), 0, cache=Cache(tmp_path / "slow"))
    assert trained == [5, 5, 5, 5]


def test_shared_initialisation_starts_every_model_alike(tmp_path):
    seeds = []

    def make(seed):
        seeds.append(seed)
        return mlp([6, 4, 3], "tanh", False, torch.Generator().manual_seed(seed)).double()

    protocol = cv.LDS(subsets=4, retrains=2, initialisation="shared")
    ground_truth(small_task(build=make), protocol, 7, cache=Cache(tmp_path))
    assert set(seeds) == {7}


def test_divergence_is_said(tmp_path):
    with pytest.raises(cv.SpecError, match="diverged"):
        ground_truth(small_task(lr=1e200), cv.LDS(subsets=4, retrains=1), 0, cache=Cache(tmp_path))


def test_tasks_without_a_recipe_are_refused(tmp_path):
    task = small_task()
    bare = cv.Task(task.model, train=task.train, query=task.query)
    with pytest.raises(cv.SpecError, match="E0503"):
        ground_truth(bare, cv.LDS(), 0, cache=Cache(tmp_path))


def test_any_module_evaluates(tmp_path):
    class Odd(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net = mlp([6, 4, 3], "tanh", True, torch.Generator().manual_seed(seed))

        def forward(self, x):
            return self.net(x) * 2

    train, query = data("cross_entropy")
    task = cv.Task(
        Odd(0).double().eval(),
        train=train,
        query=query,
        recipe=cv.Recipe(batch=4, epochs=2),
        build=Odd,
    )
    result = cv.evaluate(
        "ekfac", task, protocol=cv.LDS(subsets=6, retrains=2, bootstrap=20), cache=Cache(tmp_path)
    )
    assert [s.label for s in result.steps] == ["hessian", "ggn", "block_ggn", "kfac", "ekfac"]
    assert result.steps[0].forward == 0
    total = sum(s.forward_share for s in result.steps[1:])
    assert abs(total - 1) < 1e-9
    assert np.isfinite([s.points[0].lds.estimate for s in result.steps]).all()


class Unusual(nn.Module):
    """A branch on the data, which `torch.func.vmap` refuses, or a recurrent layer."""

    def __init__(self, seed, kind):
        super().__init__()
        self.kind = kind
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            recurrent = kind == "recurrent"
            self.first = nn.LSTM(1, 5, batch_first=True) if recurrent else nn.Linear(6, 5)
            self.last = nn.Linear(5, 3)
        self.double()

    def forward(self, x):
        if self.kind == "recurrent":
            return self.last(self.first(x.unsqueeze(2))[0][:, -1])
        h = torch.tanh(self.first(x))
        return self.last(h * 2 if float(x.detach().abs().max()) > 1 else h)


@pytest.mark.parametrize("kind", ["branch", "recurrent"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_models_that_do_not_stack_are_trained_one_by_one(kind, optimiser):
    """A warning says so, and each is what a plain loop makes of it; recurrent ones do stack."""
    train, query = data("cross_entropy")
    build = partial(Unusual, kind=kind)
    recipe = cv.Recipe(optimiser=optimiser, lr=0.05, batch=4, epochs=3)
    kept = draw_subsets(len(train[0]), 3, 0.5, 0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = retrain(
            Training(build, "cross_entropy", train, query, kept, recipe, [1, 2, 3], [4, 5, 6])
        )
    reasons = [str(w.message) for w in said if w.category is OneByOne]
    assert len(reasons) == (kind == "branch")
    assert all("one by one" in reason and "data-dependent" in reason for reason in reasons)
    for m in range(3):
        curve, model = reference_loop(build, "cross_entropy", train, kept[m], recipe, m + 1, m + 4)
        assert float((found.curve[m] - curve).abs().max()) < EXACT
        with torch.no_grad():
            losses = nn.functional.cross_entropy(model(query[0]), query[1], reduction="none")
        assert float((found.query_loss[m] - losses).abs().max()) < EXACT
