from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from curvlang.models.losses.draws import Draws
from curvlang.models.losses.losses import LOSSES, BinaryCrossEntropy, CrossEntropy, loss_named
from curvlang.models.losses.user_loss import AutodiffLoss
from tests.models.support import (
    EXACT,
    LOSS_NAMES,
    assert_different,
    assert_equal,
    assert_refused,
    loss_names,
)
from tests.oracles import dense

DRAWS = 40_000
LIMIT = 5.0
"""Standard errors: with a few hundred entries, beyond 5 has a chance below 1e-4."""


def batch(loss: str, shape: tuple[int, ...], seed: int = 0, spread: float = 2.0):
    generator = torch.Generator().manual_seed(seed)
    f = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return f, torch.randint(0, shape[-1], shape[:-1], generator=generator)
    return f, torch.rand(shape, generator=generator, dtype=torch.float64)


shapes = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.just(2), st.just(2), st.integers(1, 2), st.integers(1, 3)),
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(LOSS_NAMES), shapes, st.integers(0, 10**6), st.sampled_from([0.1, 2.0, 9.0]))
def test_derivatives_are_autograds(loss_name, shape, seed, spread) -> None:
    loss = LOSSES[loss_name]
    f, y = batch(loss_name, shape, seed, spread)
    each = torch.stack([dense.LOSSES[loss_name](f[n], y[n]) for n in range(len(f))])
    assert_equal(loss.per_example(f, y), each)
    z = f.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss.per_example(z, y).sum(), z)
    assert_equal(loss.gradient(f, y), slope.flatten(1))
    curvature = dense.loss_hessian(loss_name, f, y)
    assert_equal(loss.hessian(f, y), curvature)
    S = loss.factor(f, y)
    assert_equal(S @ S.mT, curvature)
    u = (f + 1).flatten(1).cos()
    assert_equal(loss.hessian_product(f, y, u), torch.einsum("bcd,bd->bc", curvature, u))


def test_a_factor_without_its_correction_is_no_factor() -> None:
    f, y = batch("cross_entropy", (3, 4))
    root = torch.diag_embed(torch.softmax(f, -1).sqrt())
    assert_different(root @ root.mT, LOSSES["cross_entropy"].hessian(f, y))


@loss_names
@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3)])
def test_sampled_columns_have_the_hessian_as_second_moment(loss_name, shape) -> None:
    loss = LOSSES[loss_name]
    f, y = batch(loss_name, shape)
    columns = loss.sample(f, y, Draws(3), DRAWS)
    assert columns.shape == (shape[0], f[0].numel(), DRAWS)
    assert_second_moment(columns, loss.hessian(f, y))
    with pytest.raises(AssertionError):
        assert_second_moment(1.2 * columns, loss.hessian(f, y))


def assert_second_moment(columns: Tensor, expected: Tensor) -> None:
    """Σ_r s sᵀ within `LIMIT` standard errors of its expectation, entry by entry."""
    draws = columns.shape[-1]
    products = draws * torch.einsum("bfr,bgr->bfgr", columns, columns)
    error = products.std(-1) / draws**0.5
    z = (products.mean(-1) - expected).abs() / (error + 1e-12)
    assert float(z.max()) < LIMIT, float(z.max())


@loss_names
def test_drawn_labels_do_not_depend_on_the_batches(loss_name) -> None:
    loss = LOSSES[loss_name]
    f, y = batch(loss_name, (7, 3, 4))
    whole = loss.sample(f, y, Draws(5), 2)
    parts = [loss.sample(f[a:b], y[a:b], Draws(5, start=a), 2) for a, b in ((0, 1), (1, 3), (3, 7))]
    assert_equal(torch.cat(parts), whole)
    other = loss.sample(f, y, Draws(6), 2)
    assert_different(other, whole)


def test_extreme_logits_stay_finite() -> None:
    f = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]], dtype=torch.float32)
    for name, y in (
        ("cross_entropy", torch.tensor([1, 2])),
        ("bce_with_logits", torch.tensor([[1.0, 0.0, 0.5]] * 2)),
    ):
        loss = LOSSES[name]
        assert torch.isfinite(loss.per_example(f, y)).all()
        for value in (loss.gradient(f, y), loss.hessian(f, y), loss.factor(f, y)):
            assert torch.isfinite(value).all()


def test_small_probabilities_keep_their_curvature() -> None:
    """σ(40) rounds to 1 in float64, σ(40) σ(−40) is 4.2e-18 all the same."""
    f = torch.tensor([[40.0]], dtype=torch.float64)
    found = LOSSES["bce_with_logits"].hessian(f, torch.ones_like(f))
    assert float(found) == pytest.approx(4.248354255291589e-18, rel=1e-12)


def test_bce_is_smooth_at_zero() -> None:
    f = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    y = torch.full((1, 1), 0.25, dtype=torch.float64)
    loss = LOSSES["bce_with_logits"]
    (slope,) = torch.autograd.grad(loss.per_example(f, y).sum(), f)
    assert float(slope) == 0.25


@pytest.mark.parametrize("positions", ["sum", "mean"])
def test_ignored_positions_take_no_part(positions) -> None:
    loss = CrossEntropy(positions)
    f, y = batch("cross_entropy", (3, 4, 5))
    y[0, 1:3] = -100
    y[2] = -100
    expected = torch.stack(
        [
            functional.cross_entropy(f[0], y[0], reduction=positions),
            functional.cross_entropy(f[1], y[1], reduction=positions),
            torch.zeros((), dtype=torch.float64),
        ]
    )
    assert_equal(loss.per_example(f, y), expected)
    z = f.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss.per_example(z, y).sum(), z)
    assert_equal(loss.gradient(f, y), slope.flatten(1))
    S = loss.factor(f, y)
    assert_equal(S @ S.mT, loss.hessian(f, y))
    columns = loss.sample(f, y, Draws(0), DRAWS)
    # Whole-matrix convergence: entries of rare classes are too skewed for a z-score of their own.
    found = columns @ columns.mT
    assert float((found - loss.hessian(f, y)).norm()) < 0.1 * float(loss.hessian(f, y).norm())
    assert bool((columns[2] == 0).all())
    assert bool((columns.reshape(3, 4, 5, -1)[0, 1:3] == 0).all())


def test_user_loss_equals_the_built_in_one() -> None:
    f, y = batch("mse", (4, 2, 3))
    ours, theirs = LOSSES["mse"], loss_named(dense.LOSSES["mse"])
    assert isinstance(theirs, AutodiffLoss)
    theirs.validate(f.shape, y, f.dtype)
    assert_equal(theirs.per_example(f, y), ours.per_example(f, y))
    assert_equal(theirs.gradient(f, y), ours.gradient(f, y))
    assert_equal(theirs.hessian(f, y), ours.hessian(f, y))
    S = theirs.factor(f, y)
    assert_equal(S @ S.mT, ours.hessian(f, y))
    columns = theirs.sample(f[:1], y[:1], Draws(0), DRAWS)
    assert_second_moment(columns, ours.hessian(f[:1], y[:1]))


def test_user_loss_that_is_not_convex_has_no_factor() -> None:
    loss = AutodiffLoss(lambda f, y: -(f - y).square().sum(), "concave")
    f, y = batch("mse", (2, 3))
    assert_refused("E0799", lambda: loss.factor(f, y), "not convex", "empirical")
    with pytest.raises(AssertionError):
        assert_equal(loss.hessian(f, y), torch.zeros(2, 3, 3, dtype=torch.float64), EXACT)


SETTINGS = [
    CrossEntropy(label_smoothing=0.1),
    CrossEntropy("mean", label_smoothing=0.3, ignore_index=1),
    CrossEntropy(weight=(0.5, 2.0, 0.0, 1.0)),
    CrossEntropy("mean", 0.2, 3, (0.5, 2.0, 1.0, 0.25)),
    CrossEntropy(label_smoothing=1.0, weight=(0.5, 2.0, 1.0, 0.25)),
]
settings_of_cross_entropy = pytest.mark.parametrize("loss", SETTINGS, ids=repr)


def torchs(loss, f, y):
    """What torch gives for every example by itself."""
    weight = torch.tensor(loss.weight, dtype=torch.float64) if loss.weight else None
    rule = torch.nn.CrossEntropyLoss(
        weight,
        reduction=loss.positions,
        label_smoothing=loss.label_smoothing,
        ignore_index=loss.ignore_index,
    )
    return torch.stack([rule(f[n], y[n]) for n in range(len(f))])


@settings_of_cross_entropy
def test_settings_of_cross_entropy_are_torchs(loss) -> None:
    f, y = batch("cross_entropy", (6, 5, 4))
    y[:, 0] = 0
    loss.validate(f.shape, y, f.dtype)
    assert_equal(loss.per_example(f, y), torchs(loss, f, y))
    assert_derivatives(loss, f, y)
    assert_different(loss.per_example(f, y), CrossEntropy(loss.positions).per_example(f, y))
    columns = loss.sample(f[:2], y[:2], Draws(3), DRAWS)
    # Rare classes are too skewed for a z-score of their own entries: the whole matrix.
    wanted = loss.hessian(f[:2], y[:2])
    assert float((columns @ columns.mT - wanted).norm()) < 0.05 * float(wanted.norm())


def assert_derivatives(loss, f, y) -> None:
    """Gradient, Hessian, products and factor are those of autodiff."""
    z = f.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss.per_example(z, y).sum(), z)
    assert_equal(loss.gradient(f, y), slope.flatten(1))

    def one(z, target, shape):
        return loss.per_example(z.reshape(1, *shape), target.unsqueeze(0)).squeeze(0)

    curvature = torch.stack(
        [torch.func.hessian(one)(f[n].flatten(), y[n], f[n].shape) for n in range(len(f))]
    )
    assert_equal(loss.hessian(f, y), curvature)
    S = loss.factor(f, y)
    assert_equal(S @ S.mT, curvature)
    u = (f + 1).flatten(1).cos()
    assert_equal(loss.hessian_product(f, y, u), torch.einsum("bcd,bd->bc", curvature, u))


@pytest.mark.parametrize("weight", [(), (3.0,), (0.5, 2.0, 4.0)])
def test_positive_weights_of_soft_labels_are_torchs(weight) -> None:
    loss = BinaryCrossEntropy(weight)
    f, y = batch("bce_with_logits", (4, 2, 3), spread=3.0)
    loss.validate(f.shape, y, f.dtype)
    rule = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight) if weight else None)
    assert_equal(loss.per_example(f, y), torch.stack([rule(f[n], y[n]) for n in range(4)]))
    assert_derivatives(loss, f, y)
    f, y = batch("bce_with_logits", (2, 3))
    columns = loss.sample(f, y, Draws(3), DRAWS)
    assert_second_moment(columns, loss.hessian(f, y))
    with pytest.raises(AssertionError):
        assert_second_moment(1.2 * columns, loss.hessian(f, y))


def test_products_of_a_large_vocabulary_form_no_matrix() -> None:
    """40 000 classes: Λ alone would take 12 GiB."""
    f, y = batch("cross_entropy", (2, 40_000))
    u = torch.sin(f)
    found = CrossEntropy(label_smoothing=0.1).hessian_product(f, y, u)
    p = torch.softmax(f, -1)
    assert_equal(found, p * u - p * (p * u).sum(-1, keepdim=True))


def test_modules_of_torch_are_read_by_their_settings() -> None:
    found = loss_named(torch.nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=2))
    assert found == CrossEntropy("mean", 0.1, 2)
    weight = torch.tensor([1.0, 2.0])
    assert loss_named(torch.nn.CrossEntropyLoss(weight, reduction="sum")).weight == (1.0, 2.0)
    assert_refused("E0582", lambda: loss_named(torch.nn.CrossEntropyLoss(weight)), "weights")
    assert loss_named(torch.nn.MSELoss()) == LOSSES["mse"]
    positive = loss_named(torch.nn.BCEWithLogitsLoss(pos_weight=weight))
    assert positive == BinaryCrossEntropy((1.0, 2.0))
    f, y = batch("mse", (4, 3))
    for module in (torch.nn.SmoothL1Loss(), torch.nn.MSELoss(reduction="sum")):
        loss = loss_named(module)
        loss.validate(f.shape, y, f.dtype)
        assert_equal(loss.per_example(f, y), torch.stack([module(f[n], y[n]) for n in range(4)]))


@pytest.mark.parametrize(
    ("code", "function", "words"),
    [
        ("E0580", lambda f, y: (f - y).square(), ".sum()"),
        ("E0580", lambda f, y: 1.0, "`float`"),
        ("E0580", lambda f, y: (f - y - f).sqrt().sum(), "nan"),
        ("E0581", lambda f, y: (f.detach() - y).square().sum(), "no `argmax`"),
        ("E0581", lambda f, y: f.sum() * (f.sum().item() > 0), "`.item()`"),
        ("E0581", lambda f, y: f.sum() if f.sum() > 0 else f.prod(), "`torch.where`"),
        ("E0405", lambda f, y: (f - y).square().sum(1).mean(), "f[None], y[None]"),
        ("E0405", lambda f, y: f @ f.T @ y + f.nothing, "no batch axis"),
        ("E0405", lambda f, y, z: f.sum(), "two arguments"),
        ("E0580", lambda f, y: (1j * f).sum(), "complex"),
        ("E0580", lambda f, y: (f * torch.rand(())).sum(), "called again"),
        ("E0581", lambda f, y: torch.where(f > 2, (f - 2).sqrt(), f).sum(), "its gradient is not"),
    ],
)
def test_functions_that_are_no_loss_of_an_example_are_refused(code, function, words) -> None:
    f, y = batch("mse", (4, 3))
    assert_refused(code, lambda: loss_named(function).validate(f.shape, y, f.dtype), words)


LONG = torch.int64
DOUBLE = torch.float64


@pytest.mark.parametrize(
    ("loss_name", "shape", "y", "words"),
    [
        ("cross_entropy", (5,), torch.zeros(5, dtype=LONG), "class axis"),
        ("cross_entropy", (5, 3), torch.zeros(5), "`y.long()`"),
        ("cross_entropy", (5, 3), torch.zeros(5, dtype=torch.int32), "`y.long()`"),
        ("cross_entropy", (5, 3), torch.zeros(5, 1, dtype=LONG), "labels of shape [B]"),
        ("cross_entropy", (5, 2, 3), torch.zeros(5, 3, dtype=LONG), "labels of shape [B, 2]"),
        ("cross_entropy", (5, 3), torch.tensor([0, 1, 2, 3, 4]), "first: 3 at example 3"),
        ("cross_entropy", (5, 3), torch.full((5,), -100), "first: -100"),
        ("cross_entropy", (2, 2, 3), torch.tensor([[0, -100], [-1, 0]]), "at example 1"),
        ("mse", (5, 1), torch.zeros(5, dtype=DOUBLE), "nothing is broadcast"),
        ("mse", (5, 3), torch.zeros(5, 3, dtype=LONG), "torch.float64"),
        ("mse", (5, 3), torch.zeros(5, 3), "float32"),
        ("bce_with_logits", (2, 1), torch.tensor([[0.5], [1.5]], dtype=DOUBLE), "example 1"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss_name, shape, y, words) -> None:
    assert_refused("E0405", lambda: LOSSES[loss_name].validate(shape, y, DOUBLE), words)


def test_unknown_names_are_refused() -> None:
    assert_refused("E0715", lambda: loss_named("hinge"), "`hinge`", "`cross_entropy`")
    assert_refused("E0706", lambda: CrossEntropy("all"), "`sum`")
    assert_refused("E0707", lambda: CrossEntropy(label_smoothing=1.1), "0 to 1")
    assert_refused("E0707", lambda: CrossEntropy(weight=(1.0, -1.0)), "0 or more each")
    assert_refused("E0707", lambda: BinaryCrossEntropy((float("inf"),)), "finite each")


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        (CrossEntropy(weight=(1.0, 1.0)), [0, 1], "2 class weights for 3 classes"),
        (CrossEntropy("mean", weight=(1.0, 2.0, 3.0)), [0, 1], "divides its class weight out"),
        (CrossEntropy(ignore_index=1), [0, 1], "`ignore_index` leaves out"),
    ],
)
def test_settings_that_do_not_fit_the_outputs_are_refused(loss, y, words) -> None:
    assert_refused("E0405", lambda: loss.validate((2, 3), torch.tensor(y), DOUBLE), words)
