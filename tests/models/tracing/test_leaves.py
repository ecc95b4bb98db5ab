"""The law of layers: what `a`, `g` and `e` say must be what autograd says, on every model."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from curvlang.models.losses.draws import Draws
from curvlang.models.losses.losses import LOSSES
from curvlang.models.tracing.blocks import blocks, trainable
from curvlang.models.tracing.leaves import (
    Fisher,
    LeafRequest,
    columns,
    jacobian,
    leaves,
    loss_hessian,
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
    per_example_gradients,
)
from tests.oracles import dense

N = 5


@cases
@loss_names
@pytest.mark.parametrize("by", ["layer", "parameter"])
def test_leaves_give_autograds_gradients_and_ggn(case, loss_name, by) -> None:
    model, X = case.make(N)
    y = case.targets(loss_name, N)
    loss = LOSSES[loss_name]
    found = blocks(model, X, by)
    assert_equal(
        per_example_gradients(model, loss, X, y, found),
        dense.per_example_gradients(model, loss_name, X, y),
    )
    given = leaves(model, loss, X, y, found, LeafRequest({"a", "g", "e"}))
    for block in found:
        leaf = given[block.name]
        R, T = case.make(1)[0](X)[0].numel(), block.positions
        assert leaf["a"].shape == (N, T, block.d_in)
        assert leaf["g"].shape == (N, R, T, block.d_out)
        assert leaf["e"].shape == (N, T, block.d_out)
    j_nrp = columns(found, given)
    assert_equal(torch.einsum("nrp,nrq->pq", j_nrp, j_nrp) / N, dense.ggn(model, loss_name, X, y))


@cases
def test_jacobian_and_loss_hessian(case) -> None:
    model, X = case.make(N)
    y = case.targets("cross_entropy", N)
    assert_equal(jacobian(model, X, blocks(model, X)), dense.jacobian(model, X))
    f = model(X).detach()
    assert_equal(
        loss_hessian(model, LOSSES["cross_entropy"], X, y),
        dense.loss_hessian("cross_entropy", f, y),
    )


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=5),
    st.booleans(),
    st.lists(st.integers(1, 3), max_size=2),
    st.sampled_from(LOSS_NAMES),
    st.integers(1, 4),
    st.integers(0, 10**6),
)
def test_any_mlp_over_any_positions(widths, bias, positions, loss_name, examples, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = [
        part
        for d_in, d_out in pairwise(widths)
        for part in (nn.Linear(d_in, d_out, bias=bias), nn.Tanh())
    ]
    model = drawn(nn.Sequential(*layers[:-1]).double(), generator)
    X = normal((examples, *positions, widths[0]), generator)
    shape = (examples, *positions, widths[-1])
    if loss_name == "cross_entropy":
        y = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    else:
        y = torch.rand(shape, generator=generator, dtype=torch.float64)
    found = blocks(model, X)
    assert_equal(
        per_example_gradients(model, LOSSES[loss_name], X, y, found),
        dense.per_example_gradients(model, loss_name, X, y),
    )


@cases
def test_batches_of_any_size_give_the_same_leaves(case) -> None:
    model, X = case.make(7)
    y = case.targets("cross_entropy", 7)
    found = blocks(model, X)
    loss = LOSSES["cross_entropy"]
    whole = leaves(model, loss, X, y, found, LeafRequest({"a", "g", "e"}))
    cuts = ((0, 1), (1, 3), (3, 7))
    parts = [
        leaves(model, loss, X[a:b], y[a:b], found, LeafRequest({"a", "g", "e"})) for a, b in cuts
    ]
    for block in found:
        for leaf in ("a", "g", "e"):
            joined = torch.cat([part[block.name][leaf] for part in parts])
            assert_equal(joined, whole[block.name][leaf])


@cases
def test_empirical_columns_give_the_empirical_fisher_and_not_the_ggn(case) -> None:
    model, X = case.make(N)
    y = case.targets("cross_entropy", N)
    found = blocks(model, X)
    fisher = Fisher("empirical")
    given = leaves(model, LOSSES["cross_entropy"], X, y, found, LeafRequest({"a", "g"}, fisher))
    j_nrp = columns(found, given)
    empirical = torch.einsum("nrp,nrq->pq", j_nrp, j_nrp) / N
    assert_equal(empirical, dense.empirical_fisher(model, "cross_entropy", X, y))
    assert_different(empirical, dense.ggn(model, "cross_entropy", X, y))


def test_sampled_columns_converge_to_the_ggn() -> None:
    """Mean over 200 draws of 50 samples; the difference from one example's GGN as a z-score."""
    model, X = CASES[1].make(2)
    y = CASES[1].targets("cross_entropy", 2)
    found = blocks(model, X)
    draws = []
    for k in range(200):
        request = LeafRequest({"a", "g"}, Fisher("mc", 50), Draws(k))
        given = leaves(model, LOSSES["cross_entropy"], X, y, found, request)
        j_nrp = columns(found, given)
        draws.append(torch.einsum("nrp,nrq->pq", j_nrp, j_nrp) / 2)
    stacked = torch.stack(draws)
    error = stacked.std(0) / len(draws) ** 0.5
    z = (stacked.mean(0) - dense.ggn(model, "cross_entropy", X, y)).abs() / (error + 1e-12)
    assert float(z.max()) < 5


def test_only_what_is_wanted_is_computed() -> None:
    model, X = CASES[0].make(N)
    y = CASES[0].targets("cross_entropy", N)
    found = blocks(model, X)
    for wants in ({"a"}, {"g"}, {"e"}, {"a", "e"}):
        given = leaves(model, LOSSES["cross_entropy"], X, y, found, LeafRequest(wants))
        assert all(set(leaf) == wants for leaf in given.values())
        assert not any(t.requires_grad for leaf in given.values() for t in leaf.values())


def test_the_model_is_left_as_it_was() -> None:
    model, X = CASES[4].make(N)
    y = CASES[4].targets("cross_entropy", N)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = blocks(model, X)
    leaves(model, LOSSES["cross_entropy"], X, y, found, LeafRequest({"a", "g"}))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_does_not_reach_the_output_has_no_gradient() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            self.idle(x)
            return self.used(x)

    model = Idle().double()
    X = torch.randn(N, 4, dtype=torch.float64)
    y = torch.zeros(N, dtype=torch.long)
    found = blocks(model, X)
    assert [block.name for block in found] == ["used", "idle"]
    gradients = per_example_gradients(model, LOSSES["cross_entropy"], X, y, found)
    assert not gradients[:, found[1].index].any()
    assert gradients[:, found[0].index].any()


def test_frozen_parameters_are_no_parameters_of_the_problem() -> None:
    model, X = CASES[1].make(N)
    y = CASES[1].targets("mse", N)
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    model[4].requires_grad_(False)
    found = blocks(model, X)
    assert [(b.name, b.bias, b.d_in) for b in found] == [("0", "only", 1), ("2", "none", 5)]
    assert_equal(
        per_example_gradients(model, LOSSES["mse"], X, y, found),
        dense.per_example_gradients(model, "mse", X, y),
    )
    assert sum(b.size for b in found) == sum(p.numel() for p in trainable(model).values())


def test_wrong_requests_are_refused() -> None:
    model, X = CASES[0].make(N)
    y = CASES[0].targets("cross_entropy", N)
    found = blocks(model, X)
    loss = LOSSES["cross_entropy"]

    def ask(wants, fisher):
        return lambda: leaves(model, loss, X, y, found, LeafRequest(wants, fisher))

    assert_refused("E0412", ask({"a", "b"}, Fisher()), "`b`")
    assert_refused("E0412", ask({"g"}, Fisher("mc", 2)), "draws")
    assert_refused("E0412", ask({"g"}, Fisher("true")), "`empirical`")
