"""Operations of products against those that torch counts, and of solvers against what they report."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.costs.operations import operations
from curvlang.operators import (
    Arnoldi,
    BlockDiagonal,
    Dense,
    Eigen,
    EigenBasis,
    Gram,
    Kronecker,
    Leading,
    LowRank,
    MatrixFree,
    Neumann,
    PerOutput,
    PerOutputEigen,
    Projected,
    stacked,
)
from curvlang.operators.iterative.iteration import NotConverged

VECTORS = 3


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def symmetric(n, count=None):
    x = random(n, n) if count is None else random(count, n, n)
    return x + x.mT


def basis(n, k):
    return torch.linalg.qr(random(n, k)).Q


OPERATORS = {
    "dense": lambda: Dense(symmetric(6)),
    "eigen": lambda: Eigen(basis(6, 6), random(6)),
    "kronecker": lambda: Kronecker(symmetric(4), symmetric(3)),
    "basis": lambda: EigenBasis(basis(4, 4), basis(3, 3), random(4, 3)),
    "one side": lambda: EigenBasis(None, basis(3, 3), random(4, 3)),
    "by output": lambda: PerOutput(symmetric(3, 4)),
    "by output, decomposed": lambda: PerOutputEigen(torch.stack([basis(3, 3)] * 4), random(4, 3)),
    "low rank": lambda: LowRank(basis(6, 2), random(2), random(1)[0]),
    "gram": lambda: Gram(random(6, 4)),
    "projected": lambda: Projected(
        Dense(symmetric(4)), basis(5, 2), basis(3, 2), torch.zeros((), dtype=torch.float64)
    ),
    "blocks": lambda: BlockDiagonal(
        ("a", "b"), (Dense(symmetric(2)), Dense(symmetric(4))), tuple(torch.arange(6).split([2, 4]))
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_products_take_what_torch_counts(name):
    op = OPERATORS[name]()
    v = random(op.size, VECTORS)
    with FlopCounterMode(display=False) as counted:
        _ = op @ v
    found = operations(op).flops(VECTORS)
    elementwise = 2 * op.size * VECTORS
    assert counted.get_total_flops() <= found <= counted.get_total_flops() + elementwise


@pytest.mark.parametrize("repeats", [1, 2])
def test_steps_of_an_iteration_are_products(repeats):
    records, matrix = [], Dense(torch.eye(5, dtype=torch.float64))
    solver = Neumann(matrix, 0.1, lr=0.5, steps=9, repeats=repeats, report=records.append)
    _ = solver @ random(5, VECTORS)
    products = sum(x.products for x in records)
    assert operations(solver).flops(VECTORS) == products * 2 * 5**2


def test_the_arnoldi_iteration_takes_its_products_once():
    records = []
    solver = Arnoldi(Dense(symmetric(6)), 0.1, Leading(2, 5, 0.0), report=records.append)
    with pytest.warns(NotConverged):
        _ = solver @ random(6, VECTORS)
    found = operations(solver)
    assert found.once >= records[0].products * 2 * 6**2
    assert found.flops(10 * VECTORS) < 10 * found.flops(VECTORS)


def test_products_of_a_matrix_that_is_not_there_are_not_known():
    free = MatrixFree(torch.clone, 4, torch.float64, torch.device("cpu"))
    assert operations(free) is None
    assert operations(Neumann(free, 0.1)) is None
    op = cv.fit("ekfac", cv.task("digits(hidden = [4], epochs = 1)"), progress=False)
    several = stacked([Dense(symmetric(3)), Dense(symmetric(3))])
    assert operations(several).each == 2 * 2 * 3**2
    assert operations(op.operator).flops(2) == 2 * operations(op.operator).each
