"""Draws from (C + λI)⁻¹: the map that makes them of standard normal numbers is a root of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import curvlang as cv
from curvlang.language import loads
from curvlang.operators import BlockDiagonal, Dense, Diagonal, Operator, Stacked, stacked
from curvlang.runtime.fitted import FittedOperator
from curvlang.testing.strategies import operators
from tests.operators.test_verbs import WITH_SPECTRUM, assert_close
from tests.operators.zoo import zoo
from tests.small import Tied, network, task


def covariance_of(op: FittedOperator, **words) -> torch.Tensor:
    """S Sᵀ of the map z ↦ S z that `sample` applies, read from its draws for P unit vectors."""
    P = op.shape[0]

    with pytest.MonkeyPatch.context() as patch:
        eye = torch.eye(P, dtype=op.operator.dtype)
        patch.setattr(torch, "randn", lambda *a, **k: eye)
        rows = op.sample(P, generator=torch.Generator(), **words)
    return rows.T @ rows


def inverse_of(op: FittedOperator, damping: float) -> torch.Tensor:
    return torch.linalg.inv(op.dense() + damping * torch.eye(op.shape[0], dtype=torch.float64))


def lifted(op: Operator) -> tuple[FittedOperator, float]:
    """The structure, and a damping that makes it positive definite."""
    lowest = float(op.eigenvalues().min())
    return FittedOperator(op, ()), 0.3 - min(0.0, 1.5 * lowest)


@pytest.mark.parametrize("name", WITH_SPECTRUM)
@settings(deadline=None, max_examples=4)
@given(st.tuples(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 5)))
def test_every_structure_is_drawn_from_by_a_root_of_its_inverse(name, shape):
    op, damping = lifted(zoo(*shape)[name])
    assert_close(covariance_of(op, damping=damping), inverse_of(op, damping), 1e-7)
    small = covariance_of(op, damping=damping, examples=50)
    assert_close(small * 50, inverse_of(op, damping), 1e-7)


@pytest.mark.parametrize(
    "name", ["Dense", "Kronecker", "EigenBasis", "PerOutput", "Projected", "Diagonal"]
)
def test_blocks_held_as_one_are_drawn_from_each_by_its_own(name):
    units = [zoo(seed)[name] for seed in range(3)]
    held = stacked(units)
    assert isinstance(held, Stacked)
    index = torch.randperm(held.size, generator=torch.Generator().manual_seed(0))
    op, damping = lifted(BlockDiagonal(("a", "b", "c"), (held,), (index,)))
    assert_close(covariance_of(op, damping=damping), inverse_of(op, damping), 1e-7)


@settings(deadline=None, max_examples=25)
@given(operators(), st.sampled_from([1e-2, 1.0]))
def test_every_fit_is_drawn_from_by_a_root_of_its_inverse(op, damping):
    wanted = inverse_of(op, damping)
    assert_close(covariance_of(op, damping=damping), wanted, 1e-7)


def grouped():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))
    X, y = torch.randn(6, 4, 3, 3, dtype=torch.float64), torch.randint(0, 3, (6,))
    return cv.Task(model.double().eval(), "cross_entropy", (X, y), (X, y))


@pytest.mark.parametrize("spec", ["ekfac", "kfac", "block_ggn", "per_output", "logra", "diagonal"])
def test_groups_tied_weights_positions_and_one_example(spec):
    for t in (
        grouped(),
        grouped().examples(slice(0, 1)),
        task(network([3, 4, 3], bias=False), "cross_entropy", positions=3),
        grouped().replaced(weight_decay=0.3),
        task(Tied(3).double().eval(), "cross_entropy"),
    ):
        if t.model.__class__ is Tied and spec not in ("block_ggn", "diagonal"):
            continue
        op = cv.fit(spec, t)
        assert_close(covariance_of(op, damping=0.1), inverse_of(op, 0.1), 1e-9)


def test_draws_are_the_map_of_the_generator_s_numbers():
    op = cv.fit("kfac", task(network([3, 4, 3]), "cross_entropy"))
    drawn = lambda *shape: op.sample(  # noqa: E731
        shape, generator=torch.Generator().manual_seed(3), damping=0.1, examples=7
    )
    P = op.shape[0]
    assert drawn(2, 3).shape == (2, 3, P)
    assert torch.equal(drawn(2, 3).reshape(6, P), drawn(6))
    assert drawn().shape == (P,)
    assert drawn(0).shape == (0, P)
    assert op.sample(5, generator=torch.Generator(), damping=0.1).shape == (5, P)
    assert not torch.equal(drawn(6)[0], drawn(6)[1])
    many = drawn(4000)
    spread = (many.T @ many / 4000 - inverse_of(op, 0.1) / 7).norm() / (
        inverse_of(op, 0.1) / 7
    ).norm()
    assert float(spread) < 3 * math.sqrt(P / 4000)


def test_without_a_damping_the_spec_s_inverse_is_drawn_from():
    spec = loads("curvature mine = ekfac\nevaluate mine with pseudo(rtol = 1e-6) on digits", "<s>")
    op = cv.fit(spec, task(network([3, 4, 3]), "cross_entropy", n=4))
    assert_close(covariance_of(op), op.inverse().dense(), 1e-7)
    plain = cv.fit("block_ggn", task(network([3, 4, 3]), "cross_entropy", n=4))
    assert_close(covariance_of(plain), plain.inverse().dense(), 1e-7)


def test_a_decomposed_curvature_is_the_same():
    op = cv.fit("block_ggn", task(network([3, 4, 3]), "cross_entropy"))
    once = op.decomposed()
    assert once.structure == "BlockDiagonal"
    assert_close(once.dense(), op.dense())
    assert_close(covariance_of(once, damping=0.1), inverse_of(op, 0.1), 1e-9)


def test_draws_in_single_precision():
    op = cv.fit("ekfac", task(network([3, 4, 3]), "cross_entropy")).to(torch.float32)
    drawn = op.sample(3, generator=torch.Generator().manual_seed(0), damping=0.1)
    assert drawn.dtype == torch.float32
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("name", ["Dense", "Kronecker", "Gram", "LowRank", "Projected"])
def test_a_singular_matrix_without_damping_is_refused(name):
    name = {"Kronecker": "Kronecker singular", "Gram": "Gram thin"}.get(name, name)
    op = zoo(0)[name]
    if name == "Dense":
        x = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        op = Dense(x @ x.T)
    for whole in (op, BlockDiagonal(("x",), (op,), (torch.arange(op.size),))):
        for damping in (0.0, 1e-300, 1e-18):
            with pytest.raises(cv.SpecError, match="E0601"):
                FittedOperator(whole, ()).sample(generator=torch.Generator(), damping=damping)
        rule = (
            loads("curvature c = ggn\nevaluate c with tikhonov(damping = 0) on digits", "<s>")
            .evaluations[0]
            .inverse
        )
        with pytest.raises(cv.SpecError, match="E0601"):
            FittedOperator(whole, (), rule).sample(generator=torch.Generator())


def test_small_eigenvalues_and_dampings_above_rounding_count():
    g = torch.Generator().manual_seed(0)
    tiny = Diagonal(torch.tensor([1.0, 1e-14], dtype=torch.float64))
    assert_close(covariance_of(FittedOperator(tiny, ()), damping=0.0), torch.diag(1 / tiny.entries))
    scales = BlockDiagonal(
        ("x", "y"),
        tuple(Dense(c * (torch.eye(3, dtype=torch.float64) + 0.1)) for c in (1.0, 1e-20)),
        (torch.arange(3), torch.arange(3, 6)),
    )
    both = FittedOperator(scales, ())
    assert_close(covariance_of(both, damping=0.0) @ both.dense(), torch.eye(6, dtype=torch.float64))
    x = torch.randn(300, 5, generator=g)
    single = FittedOperator(Dense(x @ x.T), ())
    assert torch.isfinite(single.sample(2, generator=g, damping=1e-2)).all()


def test_what_cannot_be_drawn_from_is_refused():
    draw = lambda op, **words: FittedOperator(op, ()).sample(  # noqa: E731
        **({"generator": torch.Generator(), "damping": 0.1} | words)
    )
    indefinite = Diagonal(torch.tensor([1.0, -2.0]))
    for op in (
        indefinite,
        Dense(torch.diag(indefinite.entries)),
        stacked([indefinite, Diagonal(1e9 * torch.ones(2))]),
        BlockDiagonal(("x",), (indefinite,), (torch.arange(2),)),
    ):
        with pytest.raises(cv.SpecError, match="E0922"):
            draw(op)
    good = Diagonal(torch.ones(2))
    with pytest.raises(cv.SpecError, match="E0603"):
        draw(zoo(0)["MatrixFree"])
    for words in (
        {"generator": 3},
        {"examples": 0},
        {"examples": float("nan")},
        {"shape": (-1,)},
        {"shape": "3"},
        {"shape": 1.5},
    ):
        with pytest.raises(cv.SpecError, match="E0563"):
            draw(good, **words)


def test_an_inverse_that_is_applied_in_passes_is_not_drawn_from():
    op = cv.fit("datainf", task(network([3, 4, 3]), "cross_entropy"))
    with pytest.raises(cv.SpecError, match="E0603") as caught:
        op.sample(generator=torch.Generator())
    assert "damping" in str(caught.value)
    assert_close(covariance_of(op, damping=0.1), inverse_of(op, 0.1), 1e-9)


def test_vectors_by_parameter():
    model = network([3, 4, 3])
    op = cv.fit("kfac", task(model, "cross_entropy"))
    v = op.sample((2, 5), generator=torch.Generator().manual_seed(0), damping=0.1)
    parts = op.by_parameter(v, model)
    assert {n: x.shape[2:] for n, x in parts.items()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert torch.equal(torch.cat([x.reshape(2, 5, -1) for x in parts.values()], -1), v)
    for act, code in (
        (lambda: op.by_parameter(v[..., 1:], model), "E0923"),
        (lambda: op.by_parameter(v, network([3, 5, 3])), "E0923"),
        (lambda: op.by_parameter(v, torch.nn.Linear(3, 3)), "E0923"),
        (lambda: op.by_parameter(v, "model"), "E0563"),
        (lambda: op.by_parameter([1.0], model), "E0563"),
    ):
        with pytest.raises(cv.SpecError, match=code):
            act()
