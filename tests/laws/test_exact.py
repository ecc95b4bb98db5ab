"""When an approximation is exact, and a twin of each case where it must not be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvlang as cv
from tests.oracles import dense
from tests.small import layer_block, network, task

EXACT = 1e-9  # float64; products of a few dozen numbers
FAR = 1e-4  # a twin must miss by more than this, relative to the block

widths = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(lambda h: [3, *h, 3])
LOSSES = st.sampled_from(["cross_entropy", "mse", "bce_with_logits"])


def gap(a, b):
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def pair(first, second, t):
    return cv.fit(first, t).dense(), cv.fit(second, t).dense()


@settings(max_examples=15)
@given(widths, LOSSES, st.sampled_from(["tanh", "relu", "sigmoid"]), st.booleans())
def test_one_datum_makes_kronecker_exact(shape, loss, activation, bias):
    t = task(network(shape, activation, bias), loss, n=1)
    block = cv.fit("block_ggn", t).dense()
    # Exact columns share the input of the one example: E[a aᵀ ⊗ g gᵀ] = a aᵀ ⊗ E[g gᵀ].
    assert float((cv.fit("kfac", t).dense() - block).norm()) <= EXACT * max(1, float(block.norm()))
    assert float((cv.fit("ekfac", t).dense() - block).norm()) <= EXACT * max(1, float(block.norm()))


def test_two_data_do_not():
    t = task(network([3, 4, 3]), "cross_entropy", n=2)
    kfac, block = pair("kfac", "block_ggn", t)
    assert gap(kfac, block) > FAR


def test_one_datum_empirical_equals_the_empirical_fisher():
    t = task(network([3, 4, 3]), "cross_entropy", n=1)
    op = cv.fit("ekfac_empirical", t)
    F = dense.empirical_fisher(t.model, "cross_entropy", *t.train)
    for name, block in op.blocks.items():
        assert gap(block.dense(), layer_block(F, op, name)) <= EXACT


@settings(max_examples=10)
@given(widths, st.booleans(), st.integers(2, 6))
def test_deep_linear_with_squared_loss_is_exact(shape, bias, n):
    t = task(network(shape, "identity", bias), "mse", n=n)
    kfac, block = pair("kfac", "block_ggn", t)
    assert float((kfac - block).norm()) <= EXACT * max(1, float(block.norm()))


def test_deep_linear_empirical_is_not():
    t = task(network([3, 4, 3], "identity"), "mse")
    text = """curvature a = hessian |> drop_residual(fisher = empirical) |> block_diagonal
    curvature b = a |> kronecker_factor"""
    spec = cv.loads(text)
    a, b = cv.fit(spec, t, curvature="a"), cv.fit(spec, t, curvature="b")
    assert gap(b.dense(), a.dense()) > FAR


def test_a_nonlinear_network_is_not():
    kfac, block = pair("kfac", "block_ggn", task(network([3, 4, 3], "tanh"), "mse"))
    assert gap(kfac, block) > FAR


class Reduced(nn.Module):
    """A deep linear network whose positions are averaged before the loss."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.inner = network([3, 4, 2], "identity", bias=False)
        self.kept = kept

    def forward(self, x):
        out = self.inner(x)
        return out if self.kept else out.mean(1)


def test_positions_kept_make_expand_exact_and_reduce_not():
    t = task(Reduced(True).eval(), "mse", positions=4)
    block = cv.fit("block_ggn", t).dense()
    assert gap(cv.fit("kfac", t).dense(), block) <= EXACT
    assert gap(cv.fit("kfac_reduce", t).dense(), block) > FAR


def test_positions_averaged_make_reduce_exact_and_expand_not():
    t = task(Reduced(False).eval(), "mse", positions=4)
    block = cv.fit("block_ggn", t).dense()
    assert gap(cv.fit("kfac_reduce", t).dense(), block) <= EXACT
    assert gap(cv.fit("kfac", t).dense(), block) > FAR


class Mixed(nn.Module):
    """Positions in the first layers, averaged before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network([3, 4, 2], "identity", bias=False)
        self.last = nn.Linear(2, 3, bias=False).double()

    def forward(self, x):
        return self.last(self.inner(x).mean(1))


def test_positions_averaged_between_layers_make_reduce_exact_and_expand_behind_them_alone():
    t = task(Mixed().eval(), "mse", positions=4)
    block = cv.fit("block_ggn", t)
    assert gap(cv.fit("kfac_reduce", t).dense(), block.dense()) <= EXACT
    expand = cv.fit("kfac", t)
    assert gap(expand.blocks["last"].dense(), block.blocks["last"].dense()) <= EXACT
    for name in expand.blocks:
        if name != "last":
            assert gap(expand.blocks[name].dense(), block.blocks[name].dense()) > FAR


@settings(max_examples=15)
@given(widths, LOSSES, st.integers(1, 6), st.booleans())
def test_correction_keeps_the_trace_and_comes_closer(shape, loss, n, bias):
    t = task(network(shape, "tanh", bias), loss, n=n)
    kfac, ekfac, block = (cv.fit(x, t) for x in ("kfac", "ekfac", "block_ggn"))
    scale = max(1.0, float(block.frobenius()))
    assert abs(float(ekfac.trace() - block.trace())) <= EXACT * scale
    assert float(ekfac.distance(block)) <= float(kfac.distance(block)) + EXACT * scale


def test_the_uncorrected_trace_differs():
    t = task(network([3, 4, 3]), "cross_entropy")
    kfac, block = cv.fit("kfac", t), cv.fit("block_ggn", t)
    assert abs(float(kfac.trace() - block.trace())) > FAR * float(block.trace())


def test_piecewise_linear_blocks_agree_and_the_whole_does_not():
    t = task(network([3, 5, 4, 3], "relu"), "cross_entropy", n=12)
    H, G = pair("block_hessian", "block_ggn", t)
    assert gap(H, G) <= EXACT
    whole_h, whole_g = pair("hessian", "ggn", t)
    assert gap(whole_h, whole_g) > FAR
    smooth = task(network([3, 5, 3], "tanh"), "cross_entropy", n=12)
    assert gap(*pair("block_hessian", "block_ggn", smooth)) > FAR


def test_swapped_factors_would_be_seen():
    t = task(network([3, 3], bias=False), "cross_entropy")
    op = cv.fit("kfac", t)
    (block,) = op.blocks.values()
    swapped = torch.kron(block.right.contiguous(), block.left.contiguous())
    G = dense.ggn(t.model, "cross_entropy", *t.train)
    assert gap(op.dense(), G) < gap(swapped, G)


class Twice(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


def test_a_layer_called_twice_is_right():
    t = task(Twice().eval(), "cross_entropy")
    G = dense.ggn(t.model, "cross_entropy", *t.train)
    block, ekfac = cv.fit("block_ggn", t), cv.fit("ekfac", t)
    assert gap(block.dense(), G) <= EXACT
    assert abs(float(ekfac.trace() - G.trace())) <= EXACT * float(G.trace())


def test_uncovered_layers_are_refused_by_name():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double().eval()
    with pytest.raises(cv.SpecError, match="E0401") as caught:
        cv.fit("kfac", task(model, "cross_entropy"))
    (problem,) = caught.value.diagnostics
    assert "`1`" in problem.headline
    assert "LayerNorm" in problem.notes[0]
