"""Stacked training over every combination of loss, momentum, decay, schedule, bias and depth."""

from __future__ import annotations

import itertools

import pytest
import torch

import curvlang as cv
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.models.architectures.mlp import mlp
from curvlang.models.losses.losses import CrossEntropy, loss_named
from curvlang.storage.cache import Cache
from curvlang.training.retrain import retrain
from curvlang.training.subsets import derived_seed
from curvlang.training.training import Training
from tests.training.test_retrain import EXACT, data, reference_loop

LOSSES = ["cross_entropy", "mse", "bce_with_logits"]
SIZES = (17, 9, 3, 16)  # against batches of 4: a rest of 1, of 1, less than one batch, none


def builder(hidden, bias):
    def build(seed):
        g = torch.Generator().manual_seed(seed)
        return mlp([6, *hidden, 3], "tanh", bias, g).double()

    return build


def subsets(sizes=SIZES, n=30):
    members = torch.zeros(len(sizes), n, dtype=torch.bool)
    for k, size in enumerate(sizes):
        members[k, torch.randperm(n, generator=torch.Generator().manual_seed(k))[:size]] = True
    return members


@pytest.mark.parametrize(
    ("momentum", "decay", "schedule"),
    [*itertools.product([0.0, 0.7], [0.0, 0.05], ["cosine", "constant"])],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [[], [5], [5, 4], [4, 3, 4]])
@pytest.mark.parametrize("loss", LOSSES)
def test_equals_the_loop_everywhere(loss, hidden, bias, momentum, decay, schedule):
    build = builder(hidden, bias)
    train, query = data(loss)
    members = subsets()
    recipe = cv.Recipe(0.05, momentum, 4, 2, schedule, decay)
    seeds = range(len(members))
    found = retrain(Training(build, loss, train, query, members, recipe, [*seeds], [*seeds]))
    for k in seeds:
        curve, model = reference_loop(build, loss, train, members[k], recipe, k, k)
        assert float((found.curve[k] - curve).abs().max()) <= EXACT
        with torch.no_grad():
            wanted = loss_named(loss).per_example(model(query[0]), query[1])
        assert float((found.query_loss[k] - wanted).abs().max()) <= EXACT


@pytest.mark.parametrize("generic", [False, True])
def test_neighbours_and_chunks_do_not_matter(generic):
    build, (train, query) = builder([4], True), data("cross_entropy")
    members, seeds = subsets((12, 9, 12, 9, 12)), [*range(5)]
    recipe = cv.Recipe(0.1, 0.5, 4, 3)

    def outcome(rows, chunk):
        return retrain(
            Training(
                build,
                "cross_entropy",
                train,
                query,
                members[rows],
                recipe,
                [seeds[k] for k in rows],
                [seeds[k] + 50 for k in rows],
            ),
            chunk=chunk,
            generic=generic,
            keep_parameters=True,
        )

    whole = outcome(seeds, 125)
    for chunk in (1, 2):
        again = outcome(seeds, chunk)
        assert float((again.query_loss - whole.query_loss).abs().max()) <= EXACT
        assert float((again.curve - whole.curve).abs().max()) <= EXACT
        for name, values in whole.parameters.items():
            assert float((again.parameters[name] - values).abs().max()) <= EXACT
    mixed = outcome([3, 0, 4], 125)
    assert float((mixed.query_loss - whole.query_loss[[3, 0, 4]]).abs().max()) <= EXACT
    # The twin: models are told apart by their seeds and subsets, so that equality means something.
    assert float((whole.query_loss[0] - whole.query_loss[2]).abs().max()) > 1e-3


def test_float32_curves_stay_within_what_is_promised():
    def build(seed):
        return mlp([6, 5, 3], "tanh", True, torch.Generator().manual_seed(seed))

    train, query = (
        tuple(x.float() if x.is_floating_point() else x for x in p) for p in data("cross_entropy")
    )
    recipe = cv.Recipe(0.05, 0.0, 4, 40)
    members = subsets((16, 16))
    found = retrain(Training(build, "cross_entropy", train, query, members, recipe, [0, 1], [0, 1]))
    for k in range(2):
        curve, _ = reference_loop(build, "cross_entropy", train, members[k], recipe, k, k)
        assert float((found.curve[k] - curve).abs().max()) <= 1e-4


def task_of(build, loss="cross_entropy", positions=None, recipe=None):
    g = torch.Generator().manual_seed(0)
    shape = (20, 6) if positions is None else (20, positions, 6)
    X = torch.randn(shape, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, shape[:-1], generator=g)
    if not isinstance(loss, str | CrossEntropy):
        y = torch.randn(*shape[:-1], 3, generator=g, dtype=torch.float64)
    recipe = recipe or cv.Recipe(0.1, batch=4, epochs=2)
    return cv.Task(build(0), loss, (X, y), (X[:4], y[:4]), recipe=recipe, build=build)


SMALL = cv.LDS(subsets=3, retrains=1)


def test_the_loss_that_was_given_is_the_one_trained_with(tmp_path):
    """Mean over positions is another training than the sum; a user's loss trains at all."""
    build = builder([3], True)
    for positions in ("sum", "mean"):
        task = task_of(build, CrossEntropy(positions), positions=5)
        truth = ground_truth(task, SMALL, 0, cache=Cache(tmp_path))
        assert truth.trained == 3
        for k, members in enumerate(truth.kept):
            seeds = (derived_seed(0, 1, k, 0), derived_seed(0, 2, k, 0))
            _, model = reference_loop(build, task.loss, task.train, members, task.recipe, *seeds)
            with torch.no_grad():
                wanted = task.loss.per_example(model(task.query[0]), task.query[1])
            assert float((truth.outcome[k, 0] - wanted).abs().max()) <= EXACT
    own = task_of(build, lambda f, y: (f - y).square().mean())
    same = cv.Task(own.model, "mse", own.train, own.query, recipe=own.recipe, build=build)
    mine = ground_truth(own, SMALL, 0, cache=Cache(tmp_path))
    theirs = ground_truth(same, SMALL, 0, cache=Cache(tmp_path))
    assert float((mine.outcome - theirs.outcome).abs().max()) <= EXACT


def test_losses_and_builds_are_told_apart_by_what_they_do(tmp_path):
    """Functions of one name, models of one architecture: the cache must not mix them up."""
    outcomes = []
    for factor in (1.0, 2.0):

        def loss(f, y, factor=factor):
            return factor * (f - y).square().mean()

        task = task_of(builder([3], True), loss)
        outcomes.append(ground_truth(task, SMALL, 0, cache=Cache(tmp_path)))
    for scale in (1.0, 3.0):

        def build(seed, scale=scale):
            model = builder([3], True)(seed)
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(scale)
            return model

        task = cv.Task(
            builder([3], True)(0),
            "cross_entropy",
            *(task_of(builder([3], True)).part(p) for p in ("train", "query")),
            recipe=cv.Recipe(0.1, batch=4, epochs=2),
            build=build,
        )
        outcomes.append(ground_truth(task, SMALL, 0, cache=Cache(tmp_path)))
    assert [o.trained for o in outcomes] == [3, 3, 3, 3]
    for a, b in itertools.pairwise(outcomes):
        assert float((a.outcome - b.outcome).abs().max()) > 1e-3


def test_builds_that_ignore_their_seed_are_refused(tmp_path):
    def careless(seed):
        return torch.nn.Sequential(torch.nn.Linear(6, 3)).double().eval()

    with pytest.raises(SpecError, match="E0507"):
        ground_truth(task_of(careless), SMALL, 0, cache=Cache(tmp_path))


def test_no_epochs_leave_the_initial_models(tmp_path):
    build = builder([3], True)
    task = task_of(build, recipe=cv.Recipe(epochs=0))
    found = retrain(
        Training(
            build,
            task.loss,
            task.train,
            task.query,
            torch.ones(2, 20).bool(),
            task.recipe,
            [4, 5],
            [0, 0],
        )
    )
    assert found.curve.shape == (2, 0)
    assert not bool(found.diverged.any())
    with torch.no_grad():
        wanted = task.loss.per_example(build(4)(task.query[0]), task.query[1])
    assert float((found.query_loss[0] - wanted).abs().max()) <= EXACT


@pytest.mark.parametrize("lr", [1e3, 1e30, 1e200])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_divergence_is_found_whether_it_overflows_or_not(lr, loss):
    """A linear model with a step beyond 2/λmax grows without bound, finite or not."""
    build, (train, query) = builder([], False), data(loss)
    recipe = cv.Recipe(lr, batch=10, epochs=4, schedule="constant")
    members = torch.ones(2, 30, dtype=torch.bool)
    found = retrain(Training(build, loss, train, query, members, recipe, [0, 1], [0, 1]))
    assert bool(found.diverged.all())
    fine = retrain(
        Training(
            build, loss, train, query, members, cv.Recipe(0.05, batch=10, epochs=4), [0, 1], [0, 1]
        )
    )
    assert not bool(fine.diverged.any())
