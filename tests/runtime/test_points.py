"""One fit to examples at several models: every mean over examples is over the models too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.language import curvature_named, loads
from curvlang.runtime.combine import fit_combination
from curvlang.runtime.fit import fit_chains

EXACT = 1e-12


@pytest.fixture(scope="module")
def points():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(11, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (11,), generator=g)
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
        recipe = cv.Recipe(weight_decay=0.01)
        made.append(cv.Task(model, "cross_entropy", (X, y), (X[:2], y[:2]), recipe=recipe))
    return made


def fitted(name, points, **options):
    chain = curvature_named(name)
    return fit_chains([chain], points, last=True, limits=Limits(**options))[0][-1].operator


@pytest.mark.parametrize("name", ["hessian", "ggn", "block_ggn", "diagonal", "per_output"])
@pytest.mark.parametrize("batch", [None, 4])
def test_a_single_mean_is_the_mean_of_the_matrices(points, name, batch):
    each = torch.stack([fitted(name, [p]).dense() for p in points])
    found = fitted(name, points, batch=batch).dense()
    assert float((found - each.mean(0)).norm() / found.norm()) < EXACT
    assert float((found - each[0]).norm() / found.norm()) > 0.05


@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_products_are_of_the_same_matrix(points, name):
    products = fitted(name, points, dense=1)
    assert not products.spectrum_known
    wanted = fitted(name, points).dense()
    assert float((products.dense() - wanted).norm() / wanted.norm()) < EXACT


def test_factors_are_means_and_moments_are_taken_in_their_basis(points):
    bare = [p.replaced(recipe=None, weight_decay=0.0) for p in points]
    each = [fitted("kfac", [p]).blocks for p in bare]
    for k, block in enumerate(fitted("kfac", bare).blocks):
        for side in ("left", "right"):
            mean = torch.stack([getattr(e[k], side) for e in each]).mean(0)
            assert torch.allclose(getattr(block, side), mean, rtol=0, atol=EXACT)
    whole = fitted("block_ggn", bare).blocks
    factors = fitted("kfac", bare).blocks
    for k, block in enumerate(fitted("ekfac", bare).blocks):
        basis = torch.kron(
            torch.linalg.eigh(factors[k].left)[1], torch.linalg.eigh(factors[k].right)[1]
        )
        moments = (basis.T @ whole[k].dense() @ basis).diagonal()
        wanted = basis @ moments.diag() @ basis.T
        assert float((block.dense() - wanted).norm() / wanted.norm()) < 1e-10


def test_sums_of_curvatures_are_fitted_alike(points):
    half = loads("curvature half = 0.5 * ggn + 0.5 * kfac").curvatures["half"]
    found = fit_combination(half, points).operator.dense()
    wanted = (fitted("ggn", points).dense() + fitted("kfac", points).dense()) / 2
    assert float((found - wanted).norm() / wanted.norm()) < EXACT


def test_one_model_is_the_task_itself(points):
    (stage,) = fit_chains([curvature_named("ggn")], points[1], last=True)[0]
    assert torch.equal(fitted("ggn", [points[1]]).dense(), stage.operator.dense())


def test_padding_counts_in_no_mean(points):
    """Sequences with a mask: the mean over positions that count, of all models."""
    g = torch.Generator().manual_seed(3)
    X = torch.randn(6, 4, 3, generator=g, dtype=torch.float64)
    y = torch.randint(0, 2, (6, 4), generator=g)
    mask = torch.arange(4)[None] < torch.tensor([1, 2, 3, 4, 2, 1])[:, None]
    y = torch.where(mask, y, -100)
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Linear(3, 2).double()
        made.append(cv.Task(model, "cross_entropy", (X, y), (X, y), mask=mask))
    each = [fitted("kfac", [p]).blocks[0] for p in made]
    block = fitted("kfac", made, batch=4).blocks[0]
    for side in ("left", "right"):
        mean = torch.stack([getattr(e, side) for e in each]).mean(0)
        assert torch.allclose(getattr(block, side), mean, rtol=0, atol=EXACT)
