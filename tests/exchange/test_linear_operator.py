"""A curvature as a linear operator of curvlinops: multiplied, inverted and estimated by its functions."""

from __future__ import annotations

import sys

import curvlinops
import numpy as np
import pytest
import torch

import curvlang as cv
from tests.small import network, task

DAMPING = 0.5


@pytest.fixture(scope="module")
def fitted():
    t = task(network([3, 4, 3]), "cross_entropy", n=7)
    return t, cv.fit("ekfac", t)


def test_products_in_every_form(fitted):
    t, op = fitted
    A, P = cv.to_curvlinops(op, t.model), op.shape[0]
    assert isinstance(A, curvlinops._torch_base.PyTorchLinearOperator)
    g = torch.Generator().manual_seed(0)
    V = torch.randn(P, 4, generator=g, dtype=torch.float64)
    assert torch.allclose(A @ V, op @ V)
    assert torch.allclose(A @ V[:, 0], op @ V[:, 0])
    assert A.adjoint() is A
    shapes = [p.shape for p in t.model.parameters()]
    pieces = [
        x.reshape(*s, 4) for x, s in zip(V.split([s.numel() for s in shapes]), shapes, strict=True)
    ]
    found = A @ pieces
    assert [x.shape for x in found] == [x.shape for x in pieces]
    assert torch.allclose(torch.cat([x.reshape(-1, 4) for x in found]), op @ V)
    assert torch.allclose(torch.from_numpy(A.to_scipy() @ V.numpy()), op @ V)
    flat = cv.to_curvlinops(op)
    assert torch.allclose(flat @ V, op @ V)
    assert torch.allclose((flat @ [V])[0], op @ V)


def test_it_is_their_own_operator_of_the_same_curvature(fitted):
    t, _ = fitted
    theirs = curvlinops.GGNLinearOperator(
        t.model, torch.nn.CrossEntropyLoss(), list(t.model.parameters()), [t.train]
    )
    ours = cv.to_curvlinops(cv.fit("ggn", t), t.model)
    eye = torch.eye(t.P, dtype=torch.float64)
    assert torch.allclose(ours @ eye, theirs @ eye, atol=1e-10)
    assert torch.allclose((ours - theirs) @ eye, torch.zeros_like(eye), atol=1e-10)
    assert torch.allclose((2.0 * ours + theirs) @ eye, 3 * (theirs @ eye), atol=1e-9)


def test_their_inverse_is_ours(fitted):
    t, op = fitted
    damped = op + DAMPING * cv.fit("identity", t)
    v = torch.randn(t.P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = op.inverse(damping=DAMPING) @ v
    A = cv.to_curvlinops(damped, t.model)
    for solver in (
        curvlinops.CGInverseLinearOperator(A, eps=0, tolerance=1e-9),
        curvlinops.LSMRInverseLinearOperator(A, atol=1e-12, btol=1e-12),
        curvlinops.NeumannInverseLinearOperator(A, num_terms=400, scale=1.0),
    ):
        assert torch.allclose(solver @ v, wanted, rtol=1e-6, atol=1e-8), type(solver).__name__


def test_their_estimates_are_of_ours(fitted):
    t, op = fitted
    A = cv.to_curvlinops(op, t.model)
    torch.manual_seed(0)
    P = op.shape[0]
    assert float(curvlinops.xtrace(A, P - 1)) == pytest.approx(float(op.trace()), rel=0.02)
    many = float(curvlinops.hutchinson_trace(A, 20, "rademacher"))
    assert many == pytest.approx(float(op.trace()), rel=0.5)
    norm = float(curvlinops.hutchinson_squared_fro(A, 20)) ** 0.5
    assert norm == pytest.approx(float(op.frobenius()), rel=0.5)
    gap = curvlinops.xdiag(A, P - 1) - op.diagonal()
    assert float(gap.norm()) < 0.3 * float(op.diagonal().norm())


def test_their_spectral_density_spans_our_eigenvalues(fitted):
    t, op = fitted
    torch.manual_seed(0)
    grid, density = curvlinops.lanczos_approximate_spectrum(cv.to_curvlinops(op, t.model), ncv=16)
    assert float(op.eigenvalues().max()) == pytest.approx(float(grid.max()), rel=0.1)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.1)


def test_precision_and_scalars():
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.layer = torch.nn.Parameter(torch.tensor(0.7)), torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x) * self.scale

    t = task(Scale().double(), "cross_entropy")
    op = cv.fit("ggn", t).to(torch.float32)
    A = cv.to_curvlinops(op, t.model)
    assert A.dtype == torch.float32
    v = torch.ones(t.P)
    assert torch.allclose(A @ v, op @ v)
    pieces = [torch.ones_like(p, dtype=torch.float32) for p in t.model.parameters()]
    assert torch.allclose(torch.cat([x.reshape(-1) for x in A @ pieces]), op @ v)


def test_what_does_not_fit_is_refused(fitted, monkeypatch):
    t, op = fitted
    for act, code, repair in (
        (lambda: cv.to_curvlinops(op.operator, t.model), "E0563", "cv.fit"),
        (lambda: cv.to_curvlinops(op, network([3, 5, 3])), "E0923", "architecture"),
        (lambda: cv.to_curvlinops(op, 3), "E0563", "nn.Module"),
    ):
        with pytest.raises(cv.SpecError, match=code) as caught:
            act()
        assert repair in str(caught.value)
    monkeypatch.setitem(sys.modules, "curvlinops._torch_base", None)
    with pytest.raises(cv.SpecError, match="E0927") as caught:
        cv.to_curvlinops(op, t.model)
    assert "to_scipy" in str(caught.value)
