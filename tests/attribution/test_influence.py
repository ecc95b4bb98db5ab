"""Scores of every kind of query against what autodiff and dense algebra give."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

import curvlang as cv
from curvlang.language.registry import METRICS
from curvlang.models.losses.metric import CLASS_METRICS, logit, margin
from curvlang.runtime.limits import memory
from tests.models.support import assert_different, assert_equal, assert_refused
from tests.small import network
from tests.small import task as make_task

LAMBDA = 0.05


def made(positions=None, n=9):
    return make_task(network([3, 4, 3]), "cross_entropy", n=n, positions=positions)


def by_autodiff(task, function, pair):
    """Rows of ∂function(f_n, y_n)/∂θ, one per example."""
    theta = {name: p.detach() for name, p in task.model.named_parameters()}

    def values(theta):
        f = functional_call(task.model, theta, (pair[0],))
        return torch.stack([function(f[n], pair[1][n]) for n in range(len(f))])

    rows = jacrev(values)(theta)
    return torch.cat([rows[name].flatten(1) for name in theta], 1)


def loss_of(f, y):
    return torch.nn.functional.cross_entropy(f, y, reduction="sum")


def margin_of(f, y):
    """log p − log(1 − p), position by position."""
    f, y = f.reshape(-1, f.shape[-1]), y.reshape(-1)
    p = torch.softmax(f, -1)[torch.arange(len(y)), y]
    return (p.log() - (-p).log1p()).sum()


def logit_of(f, y):
    f, y = f.reshape(-1, f.shape[-1]), y.reshape(-1)
    return f[torch.arange(len(y)), y].sum()


COSTS = {
    "loss": loss_of,
    "margin": lambda f, y: -margin_of(f, y),
    "logit": lambda f, y: -logit_of(f, y),
}


def expected(op, task, metric):
    inverse = torch.linalg.inv(op.dense() + LAMBDA * torch.eye(task.P, dtype=torch.float64))
    train = by_autodiff(task, loss_of, task.train)
    return by_autodiff(task, COSTS[metric], task.query) @ inverse @ train.T


@pytest.mark.parametrize("metric", [*METRICS])
@pytest.mark.parametrize("positions", [None, 2])
def test_scores_of_every_metric_are_those_of_autodiff(metric, positions):
    task = made(positions)
    op = cv.fit("ekfac", task)
    found = cv.influence(op, task, damping=LAMBDA, metric=metric)
    assert_equal(found, expected(op, task, metric))
    assert_different(-found, expected(op, task, metric))


@pytest.mark.parametrize("metric", [*METRICS])
def test_a_positive_score_improves_the_query(metric):
    """A small step that fits one training example more moves every query as its scores say."""
    task = made()
    op = cv.fit("ggn", task)
    n, step = 4, 1e-5
    scores = cv.influence(op, task, damping=LAMBDA, metric=metric)[:, n]
    inverse = op.inverse(damping=LAMBDA).dense()
    shift = -step * inverse @ by_autodiff(task, loss_of, task.train)[n]
    before = values(task, metric)
    with torch.no_grad():
        moved = torch.nn.utils.parameters_to_vector(task.model.parameters()) + shift
        torch.nn.utils.vector_to_parameters(moved, task.model.parameters())
    improvement = values(task, metric) - before
    improvement = -improvement if metric == "loss" else improvement
    assert_equal(improvement / step, scores, 1e-3)


def values(task, metric):
    with torch.no_grad():
        f = task.model(task.query[0])
    functions = {"loss": loss_of, "margin": margin, "logit": logit}
    return torch.stack([functions[metric](f[q], task.query[1][q]) for q in range(task.Q)])


def test_ignored_positions_take_no_part_in_a_metric():
    f = torch.randn(4, 3, dtype=torch.float64)
    y = torch.tensor([0, -100, 2, -100])
    kept = torch.tensor([0, 2])
    for function in (margin, logit):
        assert_equal(function(f, y), function(f[kept], y[kept]))
        assert_different(function(f, y.clamp_min(0)), function(f[kept], y[kept]))


def test_a_users_metric_says_which_way_it_improves():
    task = made()
    op = cv.fit("ekfac", task)

    def reward(f, y):
        return torch.softmax(f, -1)[0] ** 2

    up = cv.influence(op, task, damping=LAMBDA, metric=cv.Metric(reward, better="higher"))
    down = cv.influence(op, task, damping=LAMBDA, metric=cv.Metric(reward, better="lower"))
    assert_equal(up, -down)
    inverse = op.inverse(damping=LAMBDA).dense()
    train = by_autodiff(task, loss_of, task.train)
    assert_equal(down, by_autodiff(task, reward, task.query) @ inverse @ train.T)
    assert_refused("E0590", lambda: cv.Metric(reward, better="up"), "`lower` or `higher`")


def test_a_loss_as_a_metric_of_ones_own_is_the_loss():
    task = made()
    op = cv.fit("kfac", task)
    metric = cv.Metric(loss_of, better="lower", name="mine")
    assert_equal(
        cv.influence(op, task, damping=LAMBDA, metric=metric),
        cv.influence(op, task, damping=LAMBDA),
    )


@pytest.mark.parametrize("metric", [*METRICS])
def test_layers_and_positions_add_up(metric):
    task = made(positions=3)
    op = cv.fit("ekfac", task)
    total = cv.influence(op, task, damping=LAMBDA, metric=metric)
    layers = cv.influence(op, task, damping=LAMBDA, metric=metric, per_layer=True)
    assert set(layers) == set(op.blocks)
    assert_equal(sum(layers.values()), total)
    apart = cv.influence(op, task, damping=LAMBDA, metric=metric, per_position=True)
    assert apart.shape == (task.Q, task.N, 3)
    assert_equal(apart.sum(-1), total)
    assert_different(apart.mean(-1), total)
    both = cv.influence(op, task, damping=LAMBDA, metric=metric, per_layer=True, per_position=True)
    assert_equal(sum(both.values()), apart)


def test_a_position_has_the_score_of_its_own_loss():
    task = made(positions=3)
    op = cv.fit("ekfac", task)
    apart = cv.influence(op, task, damping=LAMBDA, per_position=True)
    inverse = op.inverse(damping=LAMBDA).dense()
    query = by_autodiff(task, loss_of, task.query)
    for t in range(3):
        own = by_autodiff(task, lambda f, y, t=t: loss_of(f[t], y[t]), task.train)
        assert_equal(apart[..., t], query @ inverse @ own.T)


def test_self_influence_is_the_diagonal():
    task = made()
    op = cv.fit("ggn", task)
    inverse = op.inverse(damping=LAMBDA).dense()
    for part, pair in (("train", task.train), ("query", task.query)):
        rows = by_autodiff(task, loss_of, pair)
        found = cv.self_influence(op, task, part=part, damping=LAMBDA)
        assert_equal(found, (rows @ inverse @ rows.T).diagonal())


def test_groups_add_up_or_average_their_queries():
    task = made(n=12)
    op = cv.fit("ekfac", task)
    each = cv.influence(op, task, damping=LAMBDA, metric="margin")
    lists = [[0, 2], [1], [0, 1, 2]]

    def grouped(**options):
        return cv.influence(op, task, damping=LAMBDA, metric="margin", **options)

    assert_equal(grouped(groups=lists), torch.stack([each[g].sum(0) for g in lists]))
    mean = torch.stack([each[g].mean(0) for g in lists])
    assert_equal(grouped(groups=lists, reduce="mean"), mean)
    labels = torch.tensor([5, 1, 5])
    assert_equal(grouped(groups=labels), torch.stack([each[1], each[0] + each[2]]))
    assert_refused("E0591", lambda: grouped(groups=lists, reduce="max"), "`sum` or `mean`")
    assert_refused("E0591", lambda: grouped(groups=[[0], []]), "no queries")
    assert_refused("E0591", lambda: grouped(groups=torch.tensor([1])), "3 queries")


def test_nothing_depends_on_how_the_data_go_through(monkeypatch):
    task = made(positions=2, n=11)
    op = cv.fit("ekfac", task)
    from curvlang.attribution import gradients, passes

    def everything(chunk):
        return (
            cv.influence(op, task, damping=LAMBDA, per_position=True, chunk=chunk),
            cv.influence(op, task, damping=LAMBDA),
            cv.self_influence(op, task, damping=LAMBDA),
        )

    whole = everything(4096)
    monkeypatch.setattr(gradients, "MOST", 4)
    monkeypatch.setattr(passes, "MOST", 4)
    for one, other in zip(whole, everything(2), strict=True):
        assert_equal(one, other)
    monkeypatch.setattr(gradients, "GRADIENT_BYTES", 1)
    assert gradients.batch_size(task) == 1


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, 3 * 9 * 8),
        ({"per_layer": True}, 2 * 3 * 9 * 8),
        ({"per_position": True}, 3 * (9 * 2 + 2 * 31) * 8),
    ],
)
def test_scores_that_do_not_fit_are_refused(options, needed, monkeypatch):
    """Scores [3, 9], of both layers where they are asked for by layer; by position scores [3, 9, 2] and gradients, twice [3, 31]."""
    task = made(positions=2)
    op = cv.fit("ekfac", task)
    monkeypatch.setattr(memory, "available", lambda device: needed)
    cv.influence(op, task, damping=LAMBDA, **options)
    monkeypatch.setattr(memory, "available", lambda device: needed - 1)
    with pytest.raises(cv.MachineError) as caught:
        cv.influence(op, task, damping=LAMBDA, **options)
    assert "scoring 3 queries" in caught.value.diagnostics[0].headline


def test_metrics_of_classes_need_classes():
    task = make_task(network([3, 4, 3]), "mse")
    op = cv.fit("kfac", task)
    assert_refused("E0590", lambda: cv.influence(op, task, metric="margin"), "`mse` has none")


def test_every_metric_of_the_registry_is_one():
    assert set(METRICS) == {"loss", *CLASS_METRICS}


def test_top_gives_the_fields_of_examples_that_are_dicts():
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = torch.nn.Embedding(7, 3), torch.nn.Linear(3, 2)

        def forward(self, ids, scale):
            return self.head(self.table(ids).mean(1) * scale)

    g = torch.Generator().manual_seed(0)
    part = {
        "ids": torch.randint(0, 7, (6, 4), generator=g),
        "scale": torch.rand(6, 1, generator=g),
        "labels": torch.randint(0, 2, (6,), generator=g),
    }
    task = cv.Task(Named().eval(), "cross_entropy", part, part)
    found = cv.top(cv.influence(cv.fit("ggn", task), task, damping=0.1), 1, task)[2]
    assert torch.equal(found.x["ids"], part["ids"][2])
    assert torch.equal(found.helpful[0].x["scale"], part["scale"][found.helpful[0].index])


def test_top_gives_the_extremes_with_their_examples():
    task = made()
    scores = torch.zeros(3, 9)
    scores[0, 4], scores[0, 7], scores[0, 1] = 3.0, 5.0, -2.0
    first, second, _ = cv.top(scores, 2, task)
    assert [(n.index, n.score) for n in first.helpful] == [(7, 5.0), (4, 3.0)]
    assert [n.index for n in first.harmful] == [1]
    assert second.helpful == second.harmful == ()
    assert torch.equal(first.helpful[0].x, task.train[0][7])
    assert torch.equal(first.y, task.query[1][0])
    (group,) = cv.top(scores[:1], 1, task, grouped=True)
    assert group.x is None
    assert [one.query for one in cv.top(scores, 1, queries=[2, 0])] == [2, 0]
    assert_refused("E0593", lambda: cv.top(scores[:1], 1, task), "grouped=True")
    assert_refused("E0593", lambda: cv.top(scores, 1, queries=[3]), "0…2")


def test_a_curvature_of_another_model_is_refused():
    task = make_task(network([3, 4, 3]), "cross_entropy")
    op = cv.fit("ekfac", task)
    model = nn.Sequential(nn.Identity(), *network([3, 4, 3])).eval()
    renamed = make_task(model, "cross_entropy")
    wider = make_task(network([3, 5, 3]), "cross_entropy")
    assert_refused("E0759", lambda: cv.influence(op, renamed), "cv.fit")
    assert_refused("E0759", lambda: cv.self_influence(op, wider), "P = ")
    assert_refused("E0759", lambda: cv.influence(op.operator, wider), "size 31")
    straight, turned = Two("ab"), Two("ba")
    op = cv.fit("kfac", make_task(straight.double().eval(), "cross_entropy"))
    other = make_task(turned.double().eval(), "cross_entropy")
    assert_refused("E0759", lambda: cv.influence(op, other), "another order")


class Two(nn.Module):
    """Two layers of one size, made in the order of their names in a text."""

    def __init__(self, order):
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear(3, 3))

    def forward(self, x):
        return self.b(self.a(x).tanh())
