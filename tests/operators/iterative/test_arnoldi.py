"""Leading eigenpairs by products, and LiSSA's recursion: against dense eigenvectors and the recursion written out."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import curvlang as cv
from curvlang.language import loads
from curvlang.operators import Arnoldi, Dense, Leading, leading_eigenpairs
from curvlang.operators.iterative.iteration import NotConverged
from tests.models.support import assert_refused

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
DOUBLE = torch.float64


def matrix(values: list[float], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator).double())
    return (basis * torch.tensor(values, dtype=DOUBLE)) @ basis.T


def dense(values: list[float], seed: int = 0) -> Dense:
    found = matrix(values, seed)
    return Dense((found + found.T) / 2)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_pairs_are_those_of_the_dense_matrix(rank):
    values = [5.0, -4.0, 3.0, 1.0, -0.5, 0.2, 0.1, 0.01, *[1e-3] * 12]
    found = leading_eigenpairs(dense(values), Leading(rank, tolerance=1e-12))
    wanted = torch.tensor(sorted(values, key=abs, reverse=True)[:rank], dtype=DOUBLE)
    torch.testing.assert_close(found.values, wanted, **CLOSE)
    U = found.vectors
    torch.testing.assert_close(U.T @ U, torch.eye(rank, dtype=DOUBLE), **CLOSE)
    torch.testing.assert_close(matrix(values) @ U, U * found.values, rtol=1e-7, atol=1e-7)
    assert found.residual <= 1e-9


@pytest.mark.parametrize("values", [[2.0] * 6, [3.0, 3.0, 3.0, 1.0, 1.0, 0.0], [0.0] * 5])
def test_eigenvalues_come_as_often_as_they_are_there(values):
    found = leading_eigenpairs(dense(values), Leading(len(values) - 1))
    wanted = sorted(values, reverse=True)[: len(values) - 1]
    torch.testing.assert_close(found.values, torch.tensor(wanted, dtype=DOUBLE), **CLOSE)


def test_a_rank_above_the_size_is_the_whole_matrix():
    values = [2.0, 1.0, 0.5]
    inverse = Arnoldi(dense(values), 0.1, Leading(10))
    exact = torch.linalg.inv(matrix(values) + 0.1 * torch.eye(3, dtype=DOUBLE))
    torch.testing.assert_close(inverse.dense(), exact, **CLOSE)


def test_too_few_products_are_said_and_the_residual_is_reported():
    values = [float(x) for x in torch.linspace(1, 2, 60)]
    records = []
    inverse = Arnoldi(dense(values), 0.1, Leading(5, iterations=10), records.append)
    with pytest.warns(NotConverged, match="more `iterations`"):
        inverse @ torch.ones(60, dtype=DOUBLE)
    assert records[0].iterations == 10
    assert records[0].residual > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inverse @ torch.ones(60, dtype=DOUBLE)
    assert len(records) == 1


def test_a_pole_on_a_leading_eigenvalue_is_refused():
    inverse = Arnoldi(dense([3.0, -0.5, 0.1]), 0.5, Leading(3))
    assert_refused("E0601", lambda: inverse @ torch.ones(3, dtype=DOUBLE))


@pytest.fixture
def task() -> cv.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double().eval()
    X, y = torch.randn(8, 3).double(), torch.randint(0, 2, (8,))
    return cv.Task(model, "cross_entropy", (X, y), (X[:2] + 0.1, y[:2]))


def gradients(task: cv.Task, part: str) -> Tensor:
    rows = []
    for x, target in zip(*(z[:] for z in task.part(part)), strict=True):
        loss = nn.functional.cross_entropy(task.model(x[None]), target[None])
        found = torch.autograd.grad(loss, list(task.model.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in found]))
    return torch.stack(rows)


def recursion(C: list[Tensor], v: Tensor, damping: float, scale: float) -> Tensor:
    h = v
    for matrix_ in C:
        h = v + h - (matrix_ @ h + damping * h) / scale
    return h / scale


def test_lissa_is_its_recursion(task):
    fitted = cv.fit("ggn", task)
    u, v = gradients(task, "query"), gradients(task, "train")
    found = cv.influence(fitted, task, damping=0.1, solve="lissa(scale = 3, depth = 7)")
    moved = recursion([fitted.dense()] * 7, u.T, 0.1, 3.0)
    torch.testing.assert_close(found, moved.T @ v.T, **CLOSE)
    same = "neumann(lr = 1 / 3, steps = 8)"
    torch.testing.assert_close(cv.influence(fitted, task, damping=0.1, solve=same), found, **CLOSE)


def test_batches_are_the_same_in_every_run_and_repeats_are_averaged(task):
    fitted = cv.fit("ggn", task)
    line = "lissa(scale = 5, depth = 20, batch = 3, seed = {seed}, repeats = {repeats})"

    def scored(seed: int, repeats: int) -> Tensor:
        solve = line.format(seed=seed, repeats=repeats)
        return cv.influence(fitted, task, damping=0.1, solve=solve)

    one, other = scored(4, 1), scored(5, 1)
    assert torch.equal(one, scored(4, 1))
    assert not torch.equal(one, other)
    torch.testing.assert_close(scored(4, 2), (one + other) / 2, **CLOSE)


def test_lissa_refuses_a_scale_below_the_spectrum_with_one_that_is_enough(task):
    fitted = cv.fit("ggn", task)

    def scored(scale: float) -> Tensor:
        solve = f"lissa(scale = {scale}, depth = 300)"
        return cv.influence(fitted, task, damping=0.1, solve=solve)

    assert_refused("E0620", lambda: scored(0.05), "use `scale = ")
    enough = 1.05 * float(fitted.eigenvalues().max()) + 0.1
    exact = cv.influence(fitted, task, damping=0.1)
    torch.testing.assert_close(scored(enough), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spec", ["ggn", "hessian", "block_ggn"])
def test_arnoldi_keeps_the_leading_eigenvectors_of_the_whole_curvature(task, spec):
    fitted = cv.fit(spec, task)
    damping = 0.9
    s, U = torch.linalg.eigh(fitted.dense())
    top = s.abs().sort(descending=True).indices[:3]
    K = (U[:, top] / (s[top] + damping)) @ U[:, top].T
    wanted = gradients(task, "query") @ K @ gradients(task, "train").T
    solve = "arnoldi(rank = 3, tolerance = 1e-12)"
    found = cv.influence(fitted, task, damping=damping, solve=solve)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)


def test_other_functions_have_no_solver(task):
    fitted = cv.fit("ggn", task)
    text = "arnoldi(rank = 2)"
    assert_refused("E0735", lambda: cv.influence(fitted, task, inverse="absolute", solve=text))
    assert_refused("E0707", lambda: cv.influence(fitted, task, solve="lissa(scale = 0)"))
    assert loads("curvature a = ggn\nevaluate a with tikhonov on digits { solve arnoldi }\n")
