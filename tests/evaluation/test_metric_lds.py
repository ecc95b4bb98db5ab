"""LDS of other things than the loss: scores and retrained outcomes are of one metric."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import curvlang as cv
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.models.losses.metric import margin
from curvlang.storage.cache import Cache
from curvlang.training.baseline import train_baseline
from curvlang.training.retrain import retrain
from curvlang.training.subsets import derived_seed
from curvlang.training.training import Training
from tests.models.support import assert_different, assert_equal, assert_refused
from tests.small import network

PROTOCOL = cv.LDS(subsets=30, retrains=2, bootstrap=20)


@cache
def trained():
    """Three noisy classes on the plane."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(44, 3, generator=g, dtype=torch.float64)
    y = (
        X[:, :2].sum(1) + 0.7 * torch.randn(44, generator=g, dtype=torch.float64)
    ).sign().long() + 1
    task = cv.Task(
        network([3, 4, 3]),
        "cross_entropy",
        (X[:36], y[:36]),
        (X[36:], y[36:]),
        recipe=cv.Recipe(lr=0.3, epochs=20, batch=12),
        build=lambda seed: network([3, 4, 3], seed=seed),
    )
    return train_baseline(task, 0)


def confidence(f, y):
    return torch.softmax(f, -1).gather(-1, y[None]).squeeze(-1)


METRICS = {
    "margin": lambda f, y: -margin(f, y),
    cv.Metric(confidence, better="higher"): lambda f, y: -confidence(f, y),
}


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("generic", [False, True])
def test_outcomes_are_the_metric_of_the_retrained_models(metric, generic, tmp_path, monkeypatch):
    task = trained()
    if generic:
        from curvlang.training import engines

        monkeypatch.setattr(engines, "read_layers", lambda model: None)
    protocol = cv.LDS(subsets=3, retrains=1)
    truth = ground_truth(task, protocol, 0, metric=metric, cache=Cache(tmp_path))
    found = retrain(Training(task.build, task.loss, task.train, task.query, truth.kept, task.recipe, [derived_seed(0, 1, k, 0) for k in range(3)], [derived_seed(0, 2, k, 0) for k in range(3)]), keep_parameters=True)  # fmt: skip
    for k in range(3):
        state = {name: p[k] for name, p in found.parameters.items()}
        f = torch.func.functional_call(task.model, state, (task.query[0],)).detach()
        cost = torch.stack([METRICS[metric](a, b) for a, b in zip(f, task.query[1], strict=True)])
        assert_equal(truth.outcome[k, 0], cost)
        assert_different(truth.outcome[k, 0], found.query_loss[k])
    again = ground_truth(task, protocol, 0, metric=metric, cache=Cache(tmp_path))
    assert (again.trained, again.reused) == (0, 3)
    plain = ground_truth(task, protocol, 0, cache=Cache(tmp_path))
    assert plain.trained == 3


def test_lds_of_the_margin_is_positive_and_turns_with_its_sign(tmp_path):
    task = trained()
    result = cv.evaluate(
        "ekfac", task, protocol=PROTOCOL, metric="margin", damping=(0.01,), cache=Cache(tmp_path)
    )
    assert any("raises the query's margin" in note for note in result.notes)
    (point,) = result.steps[-1].points
    assert point.lds.estimate > 0.1
    truth = ground_truth(task, PROTOCOL, 0, metric="margin", cache=Cache(tmp_path))
    assert truth.trained == 0
    op = cv.fit("ekfac", task)
    scores = cv.influence(op, task, damping=0.01, metric="margin")
    own = cv.lds(scores, truth.kept, truth.outcome, bootstrap=20)
    assert own.interval.estimate == pytest.approx(point.lds.estimate, abs=1e-6)
    wrong = cv.lds(-scores, truth.kept, truth.outcome, bootstrap=20)
    assert wrong.interval.estimate == pytest.approx(-own.interval.estimate, abs=1e-6)


def test_a_metric_that_does_not_fit_is_refused_before_the_retraining(tmp_path):
    broken = cv.Metric(lambda f, y: f, better="higher")

    def evaluated(metric):
        return cv.evaluate("ekfac", trained(), protocol=PROTOCOL, metric=metric)

    assert_refused("E0580", lambda: evaluated(broken), "one finite number")
    assert_refused("E0590", lambda: evaluated("accuracy"), "`margin`")
