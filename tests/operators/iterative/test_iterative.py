"""Conjugate gradients and the Neumann iteration against dense solves, float64."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators import (
    ConjugateGradients,
    Dense,
    Diagonal,
    ExampleMean,
    MatrixFree,
    Neumann,
    Operator,
    SolveRecord,
)
from curvlang.operators.iterative.iteration import lowest_eigenvalue
from tests.operators.zoo import NAMES, spd, zoo

N, P, K = 24, 12, 3
TOLERANCE = 1e-9
SOLVED = 1e-7  # relative residual 1e-10, condition numbers up to 1e3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(seed: int = 1, k: int = K) -> Tensor:
    return torch.randn(P, k, generator=generator(seed), dtype=torch.float64)


def free(matrix: Tensor) -> MatrixFree:
    return MatrixFree(lambda v: matrix @ v, len(matrix), matrix.dtype, matrix.device)


def dense_solve(operator: Operator, damping: float, v: Tensor) -> Tensor:
    eye = torch.eye(operator.size, dtype=torch.float64)
    return torch.linalg.solve(operator.apply(eye) + damping * eye, v)


def assert_close(found: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    assert float((found - wanted).abs().max()) <= tolerance * max(1.0, float(wanted.abs().max()))


def by_example(seed: int = 0) -> tuple[Tensor, ExampleMean]:
    """A mean of N outer products, and the mean over some of them."""
    X = torch.randn(N, P, generator=generator(seed), dtype=torch.float64)
    return X, ExampleMean(N, lambda rows: Dense(X[rows].T @ X[rows] / len(rows)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preconditioned", [False, True])
def test_conjugate_gradients_equal_dense_solves(name: str, preconditioned: bool) -> None:
    op = zoo(3)[name]
    lowest = float(torch.linalg.eigvalsh(op.apply(torch.eye(P, dtype=torch.float64))).min())
    damping = 0.1 + max(0.0, -lowest)
    approximate = Diagonal(torch.rand(P, generator=generator(), dtype=torch.float64) + 0.5)
    cg = ConjugateGradients(op, damping, approximate if preconditioned else None, 1e-10)
    assert_close(cg @ columns(), dense_solve(op, damping, columns()), SOLVED)


def test_an_exact_preconditioner_takes_one_product() -> None:
    matrix = spd(P, generator())
    took: list[SolveRecord] = []
    exact = Dense(matrix).inverse(0.01)
    cg = ConjugateGradients(free(matrix), 0.01, exact, 1e-8, 5, took.append)
    assert_close(cg @ columns(), exact @ columns())
    assert [(x.iterations, x.products) for x in took] == [(1, 2 * K)]
    assert took[0].residual <= 1e-8


def test_columns_of_zeros_and_of_any_size() -> None:
    v = columns()
    v[:, 0] = 0
    v[:, 1] *= 1e200
    op = free(spd(P, generator()))
    found = ConjugateGradients(op, 0.1, tolerance=1e-10) @ v
    assert bool((found[:, 0] == 0).all())
    assert_close(found[:, 1] / 1e200, dense_solve(op, 0.1, v / 1e200)[:, 1], SOLVED)


@pytest.mark.parametrize("lowest", [-0.3, -20.0])
def test_the_damping_that_a_refusal_names_is_enough(lowest: float) -> None:
    s = torch.linspace(1.0, 5.0, P, dtype=torch.float64)
    s[0] = lowest
    q = torch.linalg.qr(columns(k=P)).Q
    for op in (free((q * s) @ q.T), Dense((q * s) @ q.T)):
        for solver in (ConjugateGradients(op, 1e-3), Neumann(op, 1e-3, steps=500, lr=0.1)):
            with pytest.raises(SpecError, match=r"E06[02]") as refused:
                _ = solver @ columns()
            named = re.search(r"damping of (\S+) or more", refused.value.diagnostics[0].help[0])
            assert named is not None
            damping = float(named.group(1))
            assert damping <= 1.3 * abs(lowest)
            found = ConjugateGradients(op, damping, tolerance=1e-10) @ columns()
            assert_close(found, dense_solve(op, damping, columns()), 1e-5)


def test_lowest_eigenvalue_errs_to_the_safe_side() -> None:
    matrix = spd(P, generator()) - 0.2 * torch.eye(P, dtype=torch.float64)
    exact = float(torch.linalg.eigvalsh(matrix).min())
    for products in (2, 4, P):
        found = lowest_eigenvalue(free(matrix), columns()[:, 0], products)
        assert found <= exact + 1e-9
    assert abs(found - exact) < 1e-2


def test_one_step_is_the_preconditioner_solution() -> None:
    op = free(spd(P, generator()))
    approximate = Dense(spd(P, generator(5))).inverse(0.1)
    found = Neumann(op, 0.02, approximate, steps=1) @ columns()
    assert_close(found, approximate @ columns())
    halved = Neumann(op, 0.02, approximate, lr=0.5, steps=1) @ columns()
    assert_close(halved, 0.5 * (approximate @ columns()))


def test_steps_equal_the_iteration_written_out() -> None:
    matrix, damping, lr = spd(P, generator()), 0.05, 0.3
    approximate = Diagonal(torch.full((P,), 0.9, dtype=torch.float64))
    x = torch.zeros_like(columns())
    for _ in range(7):
        x = x + lr * (approximate @ (columns() - matrix @ x - damping * x))
    assert_close(Neumann(free(matrix), damping, approximate, lr, 7) @ columns(), x)


def test_it_tends_to_the_solution_of_conjugate_gradients() -> None:
    op = free(spd(P, generator(), condition=20))
    approximate = Dense(spd(P, generator(2), condition=20)).inverse(0.1)
    wanted = ConjugateGradients(op, 0.1, tolerance=1e-12) @ columns()
    gaps = []
    for steps in (1, 10, 100, 2000):
        took: list[SolveRecord] = []
        neumann = Neumann(op, 0.1, approximate, 0.2, steps, report=took.append)
        gaps.append(float((neumann @ columns() - wanted).norm()))
        assert took[0].iterations == steps
        assert took[0].products == steps * K
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-8 < gaps[-2]
    assert took[0].residual < 1e-8


def test_truncation_acts_as_damping_on_small_eigenvalues() -> None:
    """After T steps an eigendirection is at 1 − (1 − α(s + λ))^T of its solution."""
    s = torch.logspace(-3, 0, P, dtype=torch.float64)
    v = torch.ones(P, dtype=torch.float64)
    found = Neumann(Diagonal(s), 0.0, None, 1.0, 10) @ v
    assert_close(found, (1 - (1 - s) ** 10) / s)
    assert float(found.max()) < 10.0 < float((1 / s).max())


def test_divergence_is_refused_with_a_rate_that_converges() -> None:
    matrix = 10 * spd(P, generator())
    with pytest.raises(SpecError, match="E0620") as refused:
        _ = Neumann(free(matrix), 0.1, None, 1.0, 50) @ columns()
    named = re.search(r"lr = (\S+)`", refused.value.diagnostics[0].help[0])
    assert named is not None
    rate = float(named.group(1))
    assert 0.1 < rate < 0.2
    found = Neumann(free(matrix), 0.1, None, rate, 3000) @ columns()
    assert_close(found, dense_solve(free(matrix), 0.1, columns()), 1e-6)


def test_minibatches_are_seeded_linear_and_unbiased_at_the_start() -> None:
    X, examples = by_example()
    op = Dense(X.T @ X / N)
    make = lambda **given: Neumann(  # noqa: E731
        op, 1.0, None, 0.1, given.pop("steps", 40), examples, **given
    )
    v = columns()
    first = make(batch=6) @ v
    assert torch.equal(first, make(batch=6) @ v)
    assert not torch.allclose(first, make(batch=6, seed=1) @ v)
    assert_close(make(batch=6) @ v[:, :1], first[:, :1])
    assert_close(make(batch=N) @ v, make() @ v)
    wanted = dense_solve(op, 1.0, v)
    draws = torch.stack([make(batch=6, seed=k, steps=2) @ v for k in range(300)])
    error = draws.std(0) / 300**0.5
    gap = (draws.mean(0) - make(steps=2) @ v).abs()
    assert bool((gap <= 5 * error + 1e-12).all())
    assert float((first - wanted).norm() / wanted.norm()) < 0.3


def test_noise_that_wins_is_refused() -> None:
    X, examples = by_example()
    with pytest.raises(SpecError, match="minibatches of 2"):
        _ = Neumann(Dense(X.T @ X / N), 1e-3, None, 0.4, 30, examples, batch=2) @ columns()


@pytest.mark.parametrize("verb", ["diagonal", "eigenvalues", "spectral_form", "trace", "frobenius"])
def test_what_iteration_does_not_know_is_refused(verb: str) -> None:
    for solver in (
        ConjugateGradients(Dense(spd(P, generator())), 0.1),
        Neumann(zoo(0)["Dense"], 1),
    ):
        assert not solver.spectrum_known
        with pytest.raises(SpecError, match="E0603"):
            getattr(solver, verb)()
