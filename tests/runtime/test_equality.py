"""Fitted curvatures against dense autodiff, float64."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.runtime.fit import fit_chains
from tests.oracles import dense
from tests.small import network, task

EXACT = 1e-10  # only the order of summation differs
PEER = 1e-8  # through an eigendecomposition or a solve

LOSSES = ["cross_entropy", "mse", "bce_with_logits"]
HIDDEN = ([3, 3], [3, 4, 3], [3, 4, 2, 3], [3, 4, 3, 2, 3])
SHAPES = [(widths, bias) for widths in HIDDEN for bias in (True, False)]


def assert_close(a, b, tolerance):
    scale = max(1.0, float(b.abs().max()))
    assert float((a - b).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("widths", "bias"), SHAPES)
@pytest.mark.parametrize("batch", [None, 3])
def test_hessian_ggn_and_blocks_equal_autodiff(loss, widths, bias, batch):
    t = task(network(widths, bias=bias), loss)
    (stages,) = fit_chains(
        list(chains_of(chosen(load("block_ggn")))), t, limits=Limits(batch=batch)
    )
    H = dense.hessian(t.model, loss, *t.train)
    G = dense.ggn(t.model, loss, *t.train)
    assert_close(stages[0].operator.dense(), H, EXACT)
    assert_close(stages[1].operator.dense(), G, EXACT)
    block = stages[2].operator
    for op, index in zip(block.blocks, block.index, strict=True):
        assert_close(op.dense(), G[index][:, index], EXACT)
    off = block.dense().clone()
    for index in block.index:
        off[index[:, None], index] = 0
    assert float(off.abs().max()) == 0
    hessian_blocks = cv.fit("block_hessian", t).operator
    for op, index in zip(hessian_blocks.blocks, hessian_blocks.index, strict=True):
        assert_close(op.dense(), H[index][:, index], EXACT)


def test_scores_equal_the_dense_formula():
    t = task(network([3, 4, 3]), "cross_entropy")
    op = cv.fit("ekfac", t)
    grads = dense.per_example_gradients(t.model, "cross_entropy", *t.train)
    query = dense.per_example_gradients(t.model, "cross_entropy", *t.query)
    eye = torch.eye(t.P, dtype=torch.float64)
    wanted = query @ torch.linalg.inv(op.dense() + 0.02 * eye) @ grads.T
    assert_close(cv.influence(op, t, damping=0.02), wanted, PEER)
    parts = cv.influence(op, t, damping=0.02, per_layer=True)
    assert_close(sum(parts.values()), wanted, PEER)


@pytest.mark.parametrize("name", ["ekfac", "kfac_reduce", "diagonal", "block_ggn"])
def test_batches_and_order_do_not_matter(name):
    model = network([3, 4, 3])
    t = task(model, "cross_entropy", n=9)
    chain = list(chains_of(chosen(load(name))))
    (whole,) = fit_chains(chain, t, limits=Limits(batch=9))
    (split,) = fit_chains(chain, t, limits=Limits(batch=2))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = cv.Task(
        model, loss="cross_entropy", train=(t.train[0][order], t.train[1][order]), query=t.query
    )
    (other,) = fit_chains(chain, shuffled)
    assert_close(whole[-1].operator.dense(), split[-1].operator.dense(), EXACT)
    assert_close(whole[-1].operator.dense(), other[-1].operator.dense(), EXACT)


def test_weight_decay_is_added_to_every_stage():
    plain = task(network([3, 4, 3]), "cross_entropy")
    decayed = cv.Task(
        plain.model, loss="cross_entropy", train=plain.train, query=plain.query, weight_decay=0.3
    )
    eye = torch.eye(plain.P, dtype=torch.float64)
    for name in ("hessian", "ggn", "kfac"):
        a, b = cv.fit(name, plain).dense(), cv.fit(name, decayed).dense()
        assert_close(b, a + 0.3 * eye, EXACT)


def test_too_large_matrices_become_products():
    t = task(network([3, 4, 3]), "cross_entropy")
    chain = list(chains_of(chosen(load("block_ggn"))))
    (formed,) = fit_chains(chain, t)
    (free,) = fit_chains(chain, t, limits=Limits(dense=10))
    v = torch.randn(t.P, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for a, b in zip(formed, free, strict=True):
        assert_close(b.operator @ v, a.operator @ v, PEER)
    assert free[1].operator.structure == "MatrixFree"
    solved = free[1].operator.inverse(0.5) @ v
    assert_close(solved, formed[1].operator.inverse(0.5) @ v, 1e-4)


def test_sampled_columns_converge_and_differ_between_passes():
    t = task(network([3, 4, 3]), "cross_entropy")
    text = "curvature many = hessian |> drop_residual(fisher = mc, samples = 4000)"
    many = cv.fit(cv.loads(text), t)
    exact = cv.fit("ggn", t)
    assert float(many.distance(exact) / exact.frobenius()) < 0.1
    one = cv.fit("ekfac_mc", t, seed=1)
    again = cv.fit("ekfac_mc", t, seed=1)
    other = cv.fit("ekfac_mc", t, seed=2)
    assert torch.equal(one.dense(), again.dense())
    assert float(one.distance(other)) > 0


def test_combinations_are_sums():
    t = task(network([3, 4, 3]), "cross_entropy")
    spec = cv.loads("curvature mixed = 0.9 * kfac + 0.1 * diagonal")
    wanted = 0.9 * cv.fit("kfac", t).dense() + 0.1 * cv.fit("diagonal", t).dense()
    op = cv.fit(spec, t)
    assert_close(op.dense(), wanted, EXACT)
    eye = torch.eye(t.P, dtype=torch.float64)
    assert_close(op.inverse(0.1).dense(), torch.linalg.inv(wanted + 0.1 * eye), PEER)


def test_saved_operators_come_back(tmp_path):
    t = task(network([3, 4, 3]), "cross_entropy")
    op = cv.fit("ekfac", t)
    op.save(tmp_path / "x.safetensors")
    again = cv.load_operator(tmp_path / "x.safetensors")
    assert again.parameters == op.parameters
    assert torch.equal(again.dense(), op.dense())
