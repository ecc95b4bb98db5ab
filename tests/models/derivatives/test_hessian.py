from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from curvlang.models.architectures.mlp import ACTIVATIONS, mlp
from curvlang.models.derivatives import layer_hessian
from curvlang.models.derivatives.products import Portion, hessian_product
from curvlang.models.losses.losses import LOSSES
from curvlang.models.tracing.blocks import blocks
from tests.models.derivatives.means import (
    ggn_product,
    hessian_by_layers,
    hessian_by_products,
    hessian_dense,
)
from tests.models.support import (
    CASES,
    LOSS_NAMES,
    assert_different,
    assert_equal,
    assert_refused,
    cases,
    drawn,
    loss_names,
    normal,
)
from tests.oracles import dense

N = 5


@cases
@loss_names
def test_both_ways_give_the_dense_hessian(case, loss_name) -> None:
    model, X = case.make(N)
    y = case.targets(loss_name, N)
    loss = LOSSES[loss_name]
    expected = dense.hessian(model, loss_name, X, y)
    by_layers = hessian_by_layers(model, loss, X, y, blocks(model, X))
    assert_equal(by_layers, expected)
    assert_equal(hessian_by_products(model, loss, X, y), expected)
    assert_equal(hessian_dense(model, loss, X, y), expected)
    assert torch.equal(by_layers, by_layers.T)


@pytest.mark.parametrize("case", [CASES[1], CASES[5], CASES[8]], ids=lambda case: case.name)
def test_chunks_and_batches_change_nothing(case) -> None:
    model, X = case.make(7)
    y = case.targets("cross_entropy", 7)
    loss = LOSSES["cross_entropy"]
    expected = dense.hessian(model, "cross_entropy", X, y)
    own = blocks(model, X)
    assert layer_hessian.batch_size(own, 1) == 1
    assert_equal(hessian_by_layers(model, loss, X, y, own, held=1), expected)
    eye = torch.eye(len(expected), dtype=X.dtype)
    assert_equal(hessian_product(model, loss, X, y, portion=Portion(3, 4))(eye), expected)
    ggn = dense.ggn(model, "cross_entropy", X, y)
    assert_equal(ggn_product(model, loss, X, y, portion=Portion(3, 4))(eye), ggn)


@cases
@loss_names
def test_products_take_vectors_and_matrices(case, loss_name) -> None:
    model, X = case.make(N)
    y = case.targets(loss_name, N)
    H = dense.hessian(model, loss_name, X, y)
    G = dense.ggn(model, loss_name, X, y)
    V = normal((len(H), 3), torch.Generator().manual_seed(0))
    for product, matrix in (
        (hessian_product(model, LOSSES[loss_name], X, y), H),
        (ggn_product(model, LOSSES[loss_name], X, y), G),
    ):
        assert_equal(product(V), matrix @ V)
        assert_equal(product(V[:, 0]), matrix @ V[:, 0])
        assert_equal(product(V[:, :1]), matrix @ V[:, :1])


def test_vectors_of_another_length_are_refused() -> None:
    model, X = CASES[0].make(N)
    product = hessian_product(model, LOSSES["mse"], X, CASES[0].targets("mse", N))
    assert_refused("E0412", lambda: product(torch.zeros(3, dtype=X.dtype)), "[3]", "36")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_every_activation_of_the_built_in_model(activation, bias) -> None:
    generator = torch.Generator().manual_seed(0)
    model = mlp([4, 5, 2, 3], activation, bias, generator).double()
    X = normal((N, 4), generator)
    y = torch.randint(0, 3, (N,), generator=generator)
    found = hessian_dense(model, LOSSES["cross_entropy"], X, y)
    assert_equal(found, dense.hessian(model, "cross_entropy", X, y))


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.booleans(),
    st.lists(st.integers(1, 2), max_size=2),
    st.sampled_from(LOSS_NAMES),
    st.integers(0, 10**6),
)
def test_any_mlp_over_any_positions(widths, bias, positions, loss_name, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = mlp(widths, "tanh", bias, generator).double()
    X = normal((2, *positions, widths[0]), generator)
    shape = (2, *positions, widths[-1])
    if loss_name == "cross_entropy":
        y = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    else:
        y = torch.rand(shape, generator=generator, dtype=torch.float64)
    expected = dense.hessian(model, loss_name, X, y)
    found = hessian_by_layers(model, LOSSES[loss_name], X, y, blocks(model, X))
    assert_equal(found, expected)


def test_any_module_has_a_hessian() -> None:
    """Embedding, LayerNorm and a bare parameter: not covered, still exact."""

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(5, 3), nn.LayerNorm(3)
            self.mix, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x):
            z = self.embed(x)
            return self.out(self.norm(z + torch.tanh(self.mix(z))) * self.scale)

    generator = torch.Generator().manual_seed(0)
    model = drawn(Language().double(), generator)
    X = torch.randint(0, 5, (4, 2), generator=generator)
    y = torch.randint(0, 5, (4, 2), generator=generator)
    expected = dense.hessian(model, "cross_entropy", X, y)
    assert_equal(hessian_dense(model, LOSSES["cross_entropy"], X, y), expected)
    eye = torch.eye(len(expected), dtype=torch.float64)
    ggn = dense.ggn(model, "cross_entropy", X, y)
    assert_equal(ggn_product(model, LOSSES["cross_entropy"], X, y)(eye), ggn)
    assert_different(ggn, expected)


def test_a_weight_used_outside_its_layer_has_a_hessian() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return torch.tanh(self.layer(x)) @ self.layer.weight

    generator = torch.Generator().manual_seed(0)
    model = drawn(Reused().double(), generator)
    X, y = normal((N, 3), generator), torch.tensor([0, 1, 2, 0, 1])
    found = hessian_dense(model, LOSSES["cross_entropy"], X, y)
    assert_equal(found, dense.hessian(model, "cross_entropy", X, y))


def test_models_whose_examples_mix_have_none() -> None:
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    X, y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    wrapped = nn.Sequential(nn.Linear(3, 3), Centred(3, 2))
    assert_refused("E0410", lambda: hessian_dense(wrapped, LOSSES["cross_entropy"], X, y), "batch")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_piecewise_linear_networks_have_equal_layer_blocks(activation) -> None:
    """Hessian and GGN agree on each layer's own block for ReLU; not whole, and not for tanh."""
    generator = torch.Generator().manual_seed(1)
    model = mlp([4, 5, 4, 3], activation, True, generator).double()
    X = normal((20, 4), generator)
    y = torch.randint(0, 3, (20,), generator=generator)
    loss = LOSSES["cross_entropy"]
    H = hessian_dense(model, loss, X, y)
    G = ggn_product(model, loss, X, y)(torch.eye(len(H), dtype=H.dtype))
    assert_different(H, G)
    for block in blocks(model, X)[:-1]:
        own = block.index.unsqueeze(1), block.index
        if activation == "relu":
            assert_equal(H[own], G[own])
        else:
            assert_different(H[own], G[own])


def test_frozen_parameters_and_buffers_stay_constants() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    model = drawn(model.double().eval(), generator)
    model[1].running_mean.fill_(0.3)
    model[1].requires_grad_(False)
    model[3].bias.requires_grad_(False)
    X, y = normal((N, 3), generator), torch.tensor([0, 1, 1, 0, 1])
    loss = LOSSES["cross_entropy"]
    expected = dense.hessian(model, "cross_entropy", X, y)
    assert expected.shape == (24, 24)
    assert_equal(hessian_by_layers(model, loss, X, y, blocks(model, X)), expected)
    assert_equal(hessian_by_products(model, loss, X, y), expected)
