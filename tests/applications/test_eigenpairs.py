"""Leading eigenpairs by products are those of the dense matrix, of H and of the whole G, with nothing dense formed."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.applications import eigenpairs
from curvlang.diagnostics.codes import Code
from curvlang.operators.iterative.iteration import NotConverged
from tests.models.support import assert_refused
from tests.oracles.dense import ggn, hessian
from tests.processes import together
from tests.small import network
from tests.small import task as small

ORACLES = {"hessian": hessian, "ggn": ggn}


def given(positions=1):
    return small(
        network([3, 4, 3]), "mse" if positions > 1 else "cross_entropy", n=9, positions=positions
    )


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("name", ORACLES)
def test_pairs_are_those_of_the_dense_matrix(name, positions):
    task = given(positions)
    matrix = ORACLES[name](task.model, task.loss.name, *task.train)
    found = cv.leading_eigenpairs(name, 5, task, tolerance=1e-10, progress=False)
    values = torch.linalg.eigvalsh(matrix)
    wanted = values[values.abs().sort(descending=True).indices[:5]]
    torch.testing.assert_close(found.values, wanted, rtol=1e-9, atol=1e-9)
    U = found.vectors
    torch.testing.assert_close(matrix @ U, U * found.values, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(U.T @ U, torch.eye(5).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ORACLES)
def test_nothing_dense_is_formed(name, monkeypatch):
    seen = []
    known = eigenpairs.by_products
    monkeypatch.setattr(
        eigenpairs, "by_products", lambda op, *x: (seen.append(op), known(op, *x))[1]
    )
    cv.leading_eigenpairs(name, 2, given(), progress=False)
    assert seen[0].structure == "MatrixFree"


def test_a_fitted_curvature_and_too_few_products():
    task = given()
    op = cv.fit("kfac", task, progress=False)
    found = cv.leading_eigenpairs(op, 3, progress=False)
    wanted = op.eigenvalues().sort(descending=True).values[:3]
    torch.testing.assert_close(found.values, wanted, rtol=1e-9, atol=1e-9)
    with pytest.warns(NotConverged, match="more `iterations`"):
        cv.leading_eigenpairs(op, 3, iterations=3, tolerance=1e-12, progress=False)


def test_refusals():
    assert_refused(Code.E0563, lambda: cv.leading_eigenpairs("hessian", 3), "task")
    op = cv.fit("kfac", given(), progress=False)
    assert_refused(Code.E0563, lambda: cv.leading_eigenpairs(op, 0), "k")


def work():
    torch.set_num_threads(1)
    task = small(network([3, 4, 3]), "cross_entropy", n=300)
    found = cv.leading_eigenpairs("ggn", 3, task, progress=False)
    return found.values, found.vectors


def test_processes_share_the_products():
    (alone,) = together(work, 1)
    for found in together(work, 2):
        assert all(map(torch.equal, found, alone))
