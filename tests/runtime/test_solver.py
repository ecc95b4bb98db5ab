"""Solvers say how they go, and that they have not converged."""

from __future__ import annotations

import warnings

import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv
from curvlang.operators import ConjugateGradients, Dense, Neumann
from curvlang.operators.iterative.iteration import NotConverged
from tests.operators.zoo import spd
from tests.small import network
from tests.small import task as small

SPEC = """
curvature pre = block_ggn |> kronecker_factor
curvature whole = ggn
evaluate whole with tikhonov(damping = 0.05) on digits(hidden = [4], epochs = 1) {{ solve {solver} }}
"""


def fitted(solver):
    own = small(network([3, 4, 3]), "cross_entropy")
    return cv.fit(cv.loads(SPEC.format(solver=solver)), own), own


def test_too_few_steps_are_said_with_the_residual():
    matrix = spd(8, torch.Generator().manual_seed(0))
    v = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    x = torch.zeros_like(v)
    for _ in range(7):
        x = x + 0.5 * (v - matrix @ x - 0.1 * x)
    residual = float((v - matrix @ x - 0.1 * x).norm() / v.norm())
    with pytest.warns(NotConverged) as said:
        found = Neumann(Dense(matrix), 0.1, lr=0.5, steps=7) @ v
    assert torch.allclose(found, x)
    (text,) = [str(w.message) for w in said]
    assert f"after 7 steps at λ = 0.1 the residual is {residual:.2g} of the right-hand side" in text
    assert "more `steps`" in text


def test_a_converged_solve_says_nothing():
    matrix = spd(8, torch.Generator().manual_seed(0))
    v = torch.ones(8, 1, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotConverged)
        found = Neumann(Dense(matrix), 0.1, lr=1.0, steps=400) @ v
    assert torch.allclose(
        found, torch.linalg.solve(matrix + 0.1 * torch.eye(8).double(), v), atol=1e-6
    )


@pytest.mark.parametrize(
    "solver", ["cg(preconditioner = pre)", "cg", "neumann(lr = 0.5, steps = 30)"]
)
@pytest.mark.filterwarnings("ignore::curvlang.operators.iterative.iteration.NotConverged")
def test_influence_tells_how_the_solver_goes(solver):
    op, own = fitted(solver)
    told = []
    cv.influence(op, own, progress=lambda *x: told.append(x))
    name = solver.partition("(")[0]
    steps = [x for x in told if x[0].startswith(f"{name}: ")]
    assert len(steps) >= 3
    residuals = [float(x[0].rpartition(" ")[2]) for x in steps]
    assert residuals[-1] < residuals[0]
    assert all(done <= total for _, done, total in steps)


def test_the_residual_told_is_the_residual():
    matrix = spd(6, torch.Generator().manual_seed(1))
    v = torch.linspace(1, 2, 6, dtype=torch.float64)[:, None]
    told = []
    solver = ConjugateGradients(Dense(matrix), 0.1, progress=lambda *x: told.append(x))
    solver @ v
    assert told[0][:2] == ("cg: 1 open, residual 1.0e+00", 0)
    first = ConjugateGradients(Dense(matrix), 0.1, tolerance=0.9999, iterations=1)
    whole = matrix + 0.1 * torch.eye(6, dtype=torch.float64)
    x = (v * v).sum() / (v * (whole @ v)).sum() * v
    residual = float((v - whole @ x).norm() / v.norm())
    assert told[1][0] == f"cg: 1 open, residual {residual:.1e}"
    assert torch.allclose(first @ v, x)


def test_the_command_shows_and_keeps_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.cv").write_text(SPEC.format(solver="neumann(lr = 0.01, steps = 3)"))
    assert run(["influence", "s.cv", "--out", "s.safetensors"]) == 0
    err = capsys.readouterr().err
    assert "solver: the Neumann iteration has not converged: after 3 steps" in err
    from safetensors import safe_open

    with safe_open("s.safetensors", framework="pt") as file:
        assert "has not converged" in file.metadata()["solver"]
