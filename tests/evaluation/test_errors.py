"""The four errors and their shares against a direct computation with numpy and scipy; the sign of scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import curvlang as cv
from curvlang.evaluation.errors import estimated_forward_errors, shares
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.models.architectures.mlp import mlp
from curvlang.operators import Dense, Diagonal
from curvlang.runtime.fit import fit_chains
from curvlang.storage.cache import Cache
from tests.oracles import dense
from tests.small import targets

EXACT = 1e-9
SWEEP = (0.05, 0.5)
PROTOCOL = cv.LDS(subsets=8, retrains=2, bootstrap=20)


def build(seed):
    return mlp([4, 3, 3], "tanh", True, torch.Generator().manual_seed(seed)).double()


def small_task(loss="cross_entropy", perfect=False):
    g = torch.Generator().manual_seed(1)
    X = torch.randn(24, 4, generator=g, dtype=torch.float64)
    y = targets(loss, (24, 3), g)
    model = build(5)
    fitted = (X[:5], model(X[:5]).detach())
    query = fitted if perfect else (X[:5] + 0.1, y[:5])
    recipe = cv.Recipe(lr=0.1, batch=6, epochs=3)
    return cv.Task(model, loss, (X, y), query, recipe=recipe, build=build)


def by_hand(C, H, damping, grads, query):
    """Scores, inverse error and preconditioned gradients from the definitions."""
    inverse = np.linalg.inv(C + damping * np.eye(len(C)))
    scores = np.array([[q @ inverse @ g for g in grads] for q in query])
    moved = np.array([inverse @ g for g in grads])
    errors = [((H @ m - g) ** 2).sum() / (g**2).sum() for m, g in zip(moved, grads, strict=True)]
    return scores, np.mean(errors), moved


def lds_by_hand(scores, kept, outcome):
    """Spearman per query of summed scores and minus the mean outcome, then the mean."""
    found = []
    for q in range(len(scores)):
        predicted = [scores[q, row].sum() for row in kept]
        found.append(spearmanr(predicted, -outcome.mean(1)[:, q])[0])
    return np.mean(found)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_every_number_of_the_table_from_its_definition(loss, tmp_path):
    task = small_task(loss)
    cache = Cache(tmp_path)
    result = cv.evaluate("ekfac", task, protocol=PROTOCOL, damping=SWEEP, cache=cache)
    truth = ground_truth(task, PROTOCOL, 0, cache=cache)
    assert truth.trained == 0
    kept, outcome = truth.kept.numpy(), truth.outcome.numpy()
    grads = dense.per_example_gradients(task.model, loss, *task.train).numpy()
    query = dense.per_example_gradients(task.model, loss, *task.query).numpy()
    H = dense.hessian(task.model, loss, *task.train).numpy()
    (stages,) = fit_chains(list(chains_of(chosen(load("ekfac")))), task)
    assert len(result.steps) == len(stages) == 5
    columns = {name: [] for name in ("forward", "inverse", "influence", "lds")}
    for stage, step in zip(stages, result.steps, strict=True):
        C = stage.operator.dense().numpy()
        forward = np.sqrt(((C - H) ** 2).sum()) / np.sqrt((H**2).sum())
        assert abs(step.forward - forward) <= EXACT
        columns["forward"].append(forward)
        for damping, point in zip(SWEEP, step.points, strict=True):
            goal, _, goal_moved = by_hand(H, H, damping, grads, query)
            scores, inverse, moved = by_hand(C, H, damping, grads, query)
            agreement = [spearmanr(a, b)[0] for a, b in zip(scores, goal, strict=True)]
            cosines = [
                a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                for a, b in zip(moved, goal_moved, strict=True)
            ]
            assert abs(point.inverse - inverse) <= EXACT * max(1, inverse)
            assert abs(point.influence - (1 - np.mean(agreement))) <= EXACT
            assert abs(point.cosine - np.mean(cosines)) <= EXACT
            assert abs(point.lds.estimate - lds_by_hand(scores, kept, outcome)) <= EXACT
        columns["inverse"].append(inverse)
        columns["influence"].append(1 - np.mean(agreement))
        columns["lds"].append(point.lds.estimate)
    for name, values in columns.items():
        for k in range(1, 5):
            wanted = (values[k] - values[k - 1]) / (values[-1] - values[0])
            step = result.steps[k]
            found = (
                step.forward_share
                if name == "forward"
                else getattr(step.points[-1], f"{name}_share")
            )
            assert abs(found - wanted) <= 1e-6 * max(1, abs(wanted))
    assert result.steps[0].forward == 0
    assert result.steps[0].points[0].influence == pytest.approx(0, abs=EXACT)


def test_shares_add_up_and_are_silent_where_there_is_no_total():
    assert list(shares([0.0, 1.0, 4.0, 2.0])) == [None, 0.5, 1.5, -1.0]
    assert list(shares([1.0, 2.0, 1.0])) == [None, None, None]
    assert list(shares([1.0, 2.0, 1.01])) == [None, None, None]
    assert None not in list(shares([1.0, 2.0, 1.2]))[1:]
    assert list(shares([1.0, None, 2.0])) == [None, None, None]


def test_queries_without_a_gradient_count_as_zero_and_are_said(tmp_path):
    task = small_task("mse", perfect=True)
    result = cv.evaluate("ggn", task, protocol=PROTOCOL, cache=Cache(tmp_path))
    for step in result.steps:
        for point in step.points:
            assert point.lds.estimate == 0
            assert point.lds.low == point.lds.high == 0
            assert "5 of 5 queries have constant predictions and count as 0" in point.note


def ridge(N=40, d=3):
    g = torch.Generator().manual_seed(2)
    X = torch.randn(N, d, generator=g, dtype=torch.float64)
    truth = torch.randn(d, 1, generator=g, dtype=torch.float64)
    y = X @ truth + 0.5 * torch.randn(N, 1, generator=g, dtype=torch.float64)
    Xq = torch.randn(12, d, generator=g, dtype=torch.float64)
    yq = Xq @ truth + 0.5 * torch.randn(12, 1, generator=g, dtype=torch.float64)
    return (X, y), (Xq, yq)


def ridge_solution(X, y, decay):
    """argmin mean (xθ − y)² + λ/2 ‖θ‖²."""
    eye = torch.eye(X.shape[1], dtype=X.dtype)
    return torch.linalg.solve(2 * X.T @ X / len(X) + decay * eye, 2 * X.T @ y / len(X))


def fitted_linear(theta):
    model = nn.Linear(len(theta), 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(theta.T)
    return model


def test_exact_influence_of_ridge_regression_predicts_retraining():
    """Closed-form retraining, so that nothing but the linearisation stands between it and +1."""
    (X, y), query = ridge()
    decay = 0.1
    task = cv.Task(
        fitted_linear(ridge_solution(X, y, decay)), "mse", (X, y), query, weight_decay=decay
    )
    scores = cv.influence(cv.fit("hessian", task), task, damping=0.0)
    kept = torch.stack(
        [torch.randperm(40, generator=torch.Generator().manual_seed(k)) < 32 for k in range(60)]
    )
    thetas = [ridge_solution(X[row], y[row], decay) for row in kept]
    outcome = torch.stack([((query[0] @ t - query[1]) ** 2)[:, 0] for t in thetas])
    assert cv.lds(scores, kept, outcome).estimate > 0.9
    assert cv.lds(-scores, kept, outcome).estimate < -0.9


def test_scores_are_derivatives_of_the_query_loss():
    """With weight 1/N − ε on example n the query's loss has derivative score[q,n] at ε = 0."""
    (X, y), query = ridge()
    decay, step = 0.1, 1e-6
    theta = ridge_solution(X, y, decay)
    task = cv.Task(fitted_linear(theta), "mse", (X, y), query, weight_decay=decay)
    scores = cv.influence(cv.fit("hessian", task), task, damping=0.0)

    def losses(n, weight):
        """Query losses [Q] of the solution with another weight of example n."""
        w = torch.full((40, 1), 1 / 40, dtype=X.dtype)
        w[n] -= weight
        left = 2 * X.T @ (w * X) + decay * torch.eye(3, dtype=X.dtype)
        theta = torch.linalg.solve(left, 2 * X.T @ (w * y))
        return ((query[0] @ theta - query[1]) ** 2)[:, 0]

    for n in range(40):
        slope = (losses(n, step) - losses(n, -step)) / (2 * step)
        assert float((slope - scores[:, n]).abs().max()) <= 1e-5


def test_the_engine_and_the_evaluation_agree_on_the_sign(tmp_path):
    """The same through retraining by gradient descent: full batches, converged."""
    (X, y), query = ridge()
    decay = 0.1

    def make(seed):
        return mlp([3, 1], "identity", False, torch.Generator().manual_seed(seed)).double()

    task = cv.Task(
        fitted_linear(ridge_solution(X, y, decay)),
        "mse",
        (X, y),
        query,
        recipe=cv.Recipe(lr=0.2, batch=40, epochs=150, schedule="constant", weight_decay=decay),
        build=make,
    )
    protocol = cv.LDS(subsets=60, keep=0.8, retrains=2, bootstrap=50)
    result = cv.evaluate(
        "ggn", task, protocol=protocol, damping=(1e-6, 1e-3), cache=Cache(tmp_path)
    )
    assert all(point.lds.estimate > 0.9 for step in result.steps for point in step.points)
    assert result.ceiling.estimate > 0.999


def test_the_standard_error_is_the_spread_over_seeds():
    """Estimates of many seeds scatter around the exact value as their standard errors say."""
    g = torch.Generator().manual_seed(0)
    half = torch.randn(20, 20, generator=g, dtype=torch.float64)
    H = Dense(half @ half.T)
    C = Diagonal(H.diagonal())
    exact = float(C.distance(H) / H.frobenius())
    found = [estimated_forward_errors([C], H, 32, seed)[0] for seed in range(100)]
    values = torch.tensor([x.value for x in found])
    said = torch.tensor([x.error for x in found])
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 10
    assert 0.7 < float(values.std() / said.mean()) < 1.4
    assert estimated_forward_errors([H, C], H, 32, 0)[0].value == 0
    assert all(x.probes == 32 for x in found)
