"""Fits chunk by chunk: the sums are those of plain loops, whatever the chunks and the batches are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning import chunks
from curvlang.compiler.planning.plan import Limits
from curvlang.language.selection import chains_of, chosen
from curvlang.runtime.execute import Execution
from curvlang.runtime.fit import fit_losses
from curvlang.runtime.limits import footprint
from curvlang.runtime.prepare import prepare
from curvlang.runtime.stored import run_state
from tests.small import gradients, network, task

EXACT = 1e-12  # only the order of summation differs


@pytest.fixture
def many(monkeypatch):
    """Chunks of a few examples, however small the work is."""
    monkeypatch.setattr(chunks, "ROWS", 8)
    monkeypatch.setattr(chunks, "WORK", 1)


def assert_close(found, wanted):
    assert float((found - wanted).abs().max()) <= EXACT * max(1.0, float(wanted.abs().max()))


def looped_fisher(t):
    """Mean of g gᵀ over examples, each gradient by autograd alone."""
    found = torch.zeros(t.P, t.P, dtype=torch.float64)
    for x, y in zip(*t.train, strict=True):
        loss = t.loss.per_example(t.model(x[None]), y[None]).sum()
        parts = torch.autograd.grad(loss, list(t.model.parameters()))
        g = torch.cat([p.reshape(-1) for p in parts])
        found += torch.outer(g, g)
    return found / t.N


@pytest.mark.parametrize("n", [1, 7, 53, 64, 130])
@pytest.mark.parametrize("batch", [None, 5])
def test_sums_over_chunks_are_those_of_a_plain_loop(n, batch, many):
    t = task(network([3, 4, 2]), "cross_entropy", n=n)
    chain = chains_of(chosen(cv.load("empirical_fisher")))
    ((stage,),) = fit_losses(chain, t, last=True, limits=Limits(batch=batch))
    plan = prepare(chain, t, last=True, limits=Limits(batch=batch)).plans[0]
    assert plan.chunks == max(1, 1 << ((n // 8).bit_length() - 1) if n >= 8 else 1)
    assert_close(stage.operator.dense(), looped_fisher(t))


@pytest.mark.parametrize("spec", ["ekfac", "kfac", "diagonal", "etkfac", "ekfac_mc", "shampoo"])
@pytest.mark.parametrize("positions", [None, 3])
def test_the_number_of_chunks_changes_only_rounding(spec, positions, many, monkeypatch):
    t = task(network([3, 4, 2]), "cross_entropy", n=53, positions=positions)
    found = cv.fit(spec, t, progress=False).dense()
    monkeypatch.setattr(chunks, "MOST", 1)
    assert_close(found, cv.fit(spec, t, progress=False).dense())


def test_batches_end_where_chunks_do_and_are_counted(many, monkeypatch):
    t = task(network([3, 4, 2]), "cross_entropy", n=53)
    sizes, chain = [], chains_of(chosen(cv.load("diagonal")))
    feed = Execution.feed

    def seen(self, number, leaves):
        sizes.append(len(next(iter(leaves.values()))["a"]))
        feed(self, number, leaves)

    monkeypatch.setattr(Execution, "feed", seen)
    plan = prepare(chain, t, last=True, limits=Limits(batch=5)).plans[0]
    fit_losses(chain, t, last=True, limits=Limits(batch=5))
    assert plan.chunks == 4
    assert sizes == [5, 5, 3, 5, 5, 3, 5, 5, 3, 5, 5, 4]
    assert plan.batches == len(sizes)


def test_chunks_span_the_models_of_several_points(many):
    tasks = [task(network([3, 4, 2], seed=k), "cross_entropy", n=21) for k in range(3)]
    chain = chains_of(chosen(cv.load("empirical_fisher")))
    ((stage,),) = fit_losses(chain, tasks, last=True)
    g = torch.cat([gradients(t, "train") for t in tasks])
    assert_close(stage.operator.dense(), g.T @ g / 63)


def test_ragged_rows_in_chunks(many, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(11, 5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 11)
    ).double()
    X, y = torch.randint(0, 11, (2, 40, 9))
    lengths = torch.randint(1, 10, (40,))
    mask = torch.arange(9) < lengths[:, None]
    y[~mask] = -100
    t = cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), mask=mask)
    found = cv.fit("kfac", t, progress=False).dense()
    monkeypatch.setattr(chunks, "MOST", 1)
    assert_close(found, cv.fit("kfac", t, progress=False).dense())


def test_sums_that_wait_for_their_neighbours_are_predicted(many, monkeypatch):
    t = task(network([3, 40, 2]), "cross_entropy", n=64)
    chain = chains_of(chosen(cv.load("kfac")))
    held = lambda: prepare(chain, t, last=True).phases[0].parts["statistics"]  # noqa: E731
    eight = held()
    monkeypatch.setattr(chunks, "MOST", 1)
    assert eight == 4 * held()
    assert footprint.chunks_of(prepare(chain, t, last=True).plans) == 1


@pytest.mark.parametrize("stop", [1, 7, 13, 14, 15])
def test_an_interrupted_pass_goes_on_where_it_was(stop, many, monkeypatch, tmp_path):
    t = task(network([3, 4, 2]), "cross_entropy", n=70)
    feed, fed = Execution.feed, []

    def counted(self, number, leaves):
        feed(self, number, leaves)
        fed.append(number)
        if len(fed) == stop:
            raise KeyboardInterrupt

    plain = cv.fit("ekfac_mc", t, progress=False)
    monkeypatch.setattr(run_state, "SHARE", 0)
    monkeypatch.setattr(Execution, "feed", counted)
    with pytest.raises(KeyboardInterrupt):
        cv.fit("ekfac_mc", t, store=tmp_path / "s", progress=False)
    again = cv.fit("ekfac_mc", t, store=tmp_path / "s", progress=False)
    assert torch.equal(again.dense(), plain.dense())
    assert len(fed) == 16 + 1  # eight chunks, two passes, and the batch that was in flight
