"""Rows of many lengths give what the rows alone do: curvatures, scores and self-influence."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.language.selection import chains_of, chosen
from curvlang.models.padding import spans
from curvlang.runtime.fit import fit_chains
from tests.models.padding.readers import (
    Pooling,
    classes,
    gradients,
    made,
    next_tokens,
    rows,
    task_of,
)
from tests.runtime.test_layers import assert_close

N, Q = 11, 4
DAMPING = 0.05
WAYS = {
    "right": ({}, {"noise": 2}),
    "left": ({"places": ""}, {"left": True}),
    "left, with places": ({}, {"left": True, "places": True}),
    "encoder": ({"causal": False, "pooled": True}, {"pooled": True}),
}
LOSSES = {"sum": cv.CrossEntropy("sum"), "mean": cv.CrossEntropy("mean")}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches of a few positions: some rows stand alone, others in twos and threes."""
    monkeypatch.setattr(spans, "ENOUGH", 4)


def both(way, loss):
    """A task of padded rows, and the same rows with what they are to predict, alone."""
    options, how = WAYS[way]
    model, given, asked = made(**options), rows(N), rows(Q, 1)
    task = task_of(model, loss, given, asked, **how)
    padding = task.padding()
    assert padding is not None
    assert padding.kept == ""
    own, other = task_targets(given, 0, how), task_targets(asked, 1, how)
    return task, gradients(model, loss, given, own), gradients(model, loss, asked, other)


def task_targets(given, part, how):
    return classes(len(given), part) if how.get("pooled") else list(map(next_tokens, given))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_curvature_and_scores_are_those_of_rows_alone(way, loss):
    task, (train, ggn), (query, _) = both(way, LOSSES[loss])
    op = cv.fit("ggn", task)
    assert_close(op.dense(), ggn)
    inverse = torch.linalg.inv(ggn + DAMPING * torch.eye(len(ggn), dtype=ggn.dtype))
    assert_close(cv.influence(op, task, damping=DAMPING), query @ inverse @ train.T)
    own = cv.self_influence(op, task, damping=DAMPING)
    assert_close(own, ((train @ inverse) * train).sum(1))


FACTORED = {
    "ekfac": "kronecker_factor(others = diagonal) |> eigen_correct",
    "reduce": "kronecker_factor(sharing = reduce, others = diagonal)",
    "diagonal": "diagonal",
    "drawn": "kronecker_factor(others = diagonal)",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chain", FACTORED)
def test_factors_and_scores_are_those_of_the_rows_with_their_padding(way, chain):
    task, *_ = both(way, LOSSES["mean"])
    whole = task.replaced()
    whole._padding = {"train": None, "query": None}
    drop = "drop_residual(fisher = mc, samples = 2)" if chain == "drawn" else "drop_residual"
    blocks = f"hessian |> {drop} |> block_diagonal(by = layer)"
    spec = cv.loads(f"curvature m = {blocks} |> {FACTORED[chain]}")
    mine, other = (cv.fit(spec, t, seed=3) for t in (task, whole))
    assert_close(mine.dense(), other.dense())
    for groups in (None, [[0, 2], [1]]):
        pair = [
            cv.influence(op, t, damping=DAMPING, groups=groups, per_layer=True)
            for op, t in ((mine, task), (other, whole))
        ]
        for name, scores in pair[1].items():
            assert_close(pair[0][name], scores)
    for part in ("train", "query"):
        own = [
            cv.self_influence(op, t, damping=DAMPING, part=part)
            for op, t in ((mine, task), (other, whole))
        ]
        assert_close(*own)


def factor(model, layer, given, reduce=False):
    """The input factor of a layer over rows alone."""
    seen = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda m, x: seen.append(x[0][0]))
    for row in given:
        model(row[None])
    handle.remove()
    own = [torch.cat([x.detach(), torch.ones(len(x), 1).double()], 1) for x in seen]
    parts = [x.mean(0, keepdim=True) for x in own] if reduce else own
    a = torch.cat(parts)
    return a.T @ a / len(a)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_means_over_positions_are_over_the_rows_own(sharing):
    task, *_ = both("right", LOSSES["sum"])
    spec = cv.loads(f"curvature m = block_ggn |> foof(sharing = {sharing}, others = diagonal)")
    op = cv.fit(spec, task)
    k = op.operator.names.index("mix")
    block = op.operator.blocks[k].dense()
    wanted = factor(made(), "mix", rows(N), sharing == "reduce")
    assert_close(block[:5, :5], wanted)


def test_where_padding_changes_the_model_it_stays():
    given, asked = rows(N), rows(Q, 1)
    task = task_of(made(Pooling), "cross_entropy", given, asked, pooled=True)
    padding = task.padding()
    assert padding is not None
    assert padding.kept
    plain = cv.Task(task.model, task.loss, task.train, task.query)
    op, other = (cv.fit("ggn", t) for t in (task, plain))
    assert_close(op.dense(), other.dense())


def test_an_example_that_fails_is_named_by_its_number():
    task, *_ = both("right", LOSSES["sum"])
    X = task.train[0].clone()
    X[7, 0] = -5
    model = task.model
    # The token is outside the table in a row that stands elsewhere among batches.
    with pytest.raises(cv.SpecError, match=r"(?s)example 7|train\\[7\\]"):
        cv.fit("ggn", cv.Task(model, task.loss, (X, task.train[1]), task.query, mask=task.mask))


def test_batches_of_several_models_draw_their_own_labels():
    task, *_ = both("right", LOSSES["sum"])
    spec = cv.loads(
        "curvature m = hessian |> drop_residual(fisher = mc) |> block_diagonal |> diagonal"
    )
    chains = chains_of(chosen(spec))
    whole = task.replaced()
    whole._padding = {"train": None, "query": None}
    pair = [fit_chains(list(chains), [t, t], seed=1)[0][-1].operator for t in (task, whole)]
    assert_close(pair[0].dense(), pair[1].dense())
