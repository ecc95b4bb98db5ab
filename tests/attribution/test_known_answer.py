"""Ridge regression, where the answer is known: the exact Hessian predicts what small groups do.

Training to the optimum has a closed form, so there is no noise of retraining. Removing a group G
changes the optimum by (1/N) H⁻¹ Σ_G ∇ℓ up to second order in |G|/N (Koh & Liang 2017,
arXiv:1703.04730): the LDS of the exact Hessian tends to 1 as groups shrink, and curvatures that
leave more of H out follow in the order of what they leave out.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.training.subsets import draw_subsets

N, D, DECAY = 200, 8, 0.02
NAMES = ("hessian", "diagonal", "identity")


def optimum(X, y):
    """argmin of the mean squared error plus λ/2 ‖θ‖²: (2 XᵀX/N + λI)⁻¹ 2 Xᵀy/N."""
    A = 2 * X.T @ X / len(X) + DECAY * torch.eye(D, dtype=X.dtype)
    return torch.linalg.solve(A, 2 * X.T @ y / len(X))


@pytest.fixture(scope="module")
def problem():
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(D, D, generator=g, dtype=torch.float64) @ torch.diag(
        torch.logspace(0, -1, D, dtype=torch.float64)
    )
    X = torch.randn(N + 20, D, generator=g, dtype=torch.float64) @ mix
    y = X @ torch.randn(D, generator=g, dtype=torch.float64)
    y = (y + torch.randn(N + 20, generator=g, dtype=torch.float64))[:, None]
    model = nn.Linear(D, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(optimum(X[:N], y[:N]).T)
    task = cv.Task(model, "mse", (X[:N], y[:N]), (X[N:], y[N:]), weight_decay=DECAY)
    return task, X, y


def lds(problem, name, keep, subsets=100):
    task, X, y = problem
    # The L2 term makes H positive definite: no damping is needed.
    scores = cv.influence(cv.fit(name, task), task, damping=1e-12)
    kept = draw_subsets(N, subsets, keep, 0)
    found = []
    for members in kept:
        theta = optimum(X[:N][members], y[:N][members])
        found.append((X[N:] @ theta - y[N:]).square()[:, 0])
    return cv.lds(scores, kept, torch.stack(found))


def test_the_exact_hessian_tends_to_one_as_groups_shrink(problem):
    scores = [lds(problem, "hessian", keep).estimate for keep in (0.5, 0.9, 0.98, 0.995)]
    assert scores == sorted(scores)
    assert scores[-1] > 0.995
    assert scores[0] < 0.98  # at half the data the second order shows


def test_wrong_curvatures_stand_in_the_order_of_what_they_leave_out(problem):
    exact, diagonal, none = (lds(problem, name, 0.98).estimate for name in NAMES)
    assert exact > diagonal + 0.02
    assert diagonal > none + 0.02


def test_a_linear_model_has_no_residual(problem):
    task, _, _ = problem
    exact, without = (cv.fit(name, task).operator.dense() for name in ("hessian", "ggn"))
    assert float((exact - without).norm() / exact.norm()) < 1e-12
