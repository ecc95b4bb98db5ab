"""Inverses by their entries: DataInf against its published loops, random formulas against their dense reading."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import curvlang as cv
from curvlang.language import loads
from tests.models.support import assert_refused

torch_double = torch.float64
N, Q = 7, 3
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
FISHER = "hessian |> drop_residual(fisher = empirical)"


@pytest.fixture
def task() -> cv.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    X, y = torch.randn(N, 3).double(), torch.randint(0, 3, (N,))
    return cv.Task(model, "cross_entropy", (X, y), (X[:Q] + 0.1, y[:Q]))


def gradients(task: cv.Task, part: str) -> Tensor:
    rows = []
    for x, target in zip(*(z[:] for z in task.part(part)), strict=True):
        loss = nn.functional.cross_entropy(task.model(x[None]), target[None])
        found = torch.autograd.grad(loss, list(task.model.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in found]))
    return torch.stack(rows)


BLOCKS = {"layer": [slice(0, 16), slice(16, 31)], None: [slice(0, 31)]}


def fitted(task: cv.Task, by: str | None, inverse: str, declared: str = "") -> cv.FittedOperator:
    cut = f" |> block_diagonal(by = {by})" if by else ""
    text = f"{declared}\ncurvature mine = {FISHER}{cut}\nevaluate mine with {inverse} on digits\n"
    return cv.fit(loads(text), task)


@pytest.mark.parametrize("by", ["layer", None])
@pytest.mark.parametrize("relative", [False, True])
def test_datainf_is_the_published_formula_example_by_example(task, by, relative):
    v, u = gradients(task, "train"), gradients(task, "query")
    wanted = torch.zeros(Q, N).double()
    for block in BLOCKS[by]:
        own, queries = v[:, block], u[:, block]
        lam = 0.1 * own.square().sum() / N / own.shape[1] if relative else 0.03
        for q in range(Q):
            moved = torch.zeros_like(queries[q])
            for i in range(N):
                c = own[i] @ queries[q] / (lam + own[i] @ own[i])
                moved += (queries[q] - c * own[i]) / lam / N
            wanted[q] += own @ moved
    inverse = "datainf_relative" if relative else "datainf(damping = 0.03)"
    operator = fitted(task, by, inverse)
    torch.testing.assert_close(cv.influence(operator, task), wanted, **CLOSE)
    named = cv.fit(loads(f"curvature x = {FISHER}" + (" |> block_diagonal" if by else "")), task)
    torch.testing.assert_close(cv.influence(named, task, inverse=inverse), wanted, **CLOSE)
    own_scores = cv.self_influence(operator, task)
    K = operator.inverse().dense()
    torch.testing.assert_close(own_scores, torch.einsum("np,pq,nq->n", v, K, v), **CLOSE)


def test_datainf_is_exact_for_one_example(task):
    one = task.examples(torch.tensor([2]))
    K = fitted(one, "layer", "datainf(damping = 0.03)").inverse().dense()
    C = fitted(one, "layer", "tikhonov(damping = 0.03)").dense()
    exact = torch.linalg.inv(C + 0.03 * torch.eye(len(C), dtype=torch_double))
    torch.testing.assert_close(K, exact, **CLOSE)
    K = fitted(task, "layer", "datainf(damping = 0.03)").inverse().dense()
    C = fitted(task, "layer", "tikhonov(damping = 0.03)").dense()
    exact = torch.linalg.inv(C + 0.03 * torch.eye(len(C), dtype=torch_double))
    assert float((K - exact).norm() / exact.norm()) > 0.1


def test_scores_per_layer_add_up(task):
    operator = fitted(task, "layer", "datainf(damping = 0.03)")
    parts = cv.influence(operator, task, per_layer=True)
    assert set(parts) == {"0", "2"}
    torch.testing.assert_close(sum(parts.values()), cv.influence(operator, task), **CLOSE)


def test_the_curvature_of_a_fit_with_such_an_inverse_is_known_by_its_products(task):
    operator = fitted(task, "layer", "datainf")
    formed = fitted(task, "layer", "tikhonov")
    assert "applied in passes" in operator.inverse().operator.describe()
    x = torch.randn(task.P, 2, dtype=torch_double)
    torch.testing.assert_close(operator @ x, formed.dense() @ x, **CLOSE)
    whole = fitted(task, None, "datainf")
    torch.testing.assert_close(whole @ x, fitted(task, None, "tikhonov").dense() @ x, **CLOSE)


ROWS = "r[p] = mean[n] v[n,p] / (d + sum[p''] v[n,p'']^2) t[p] = d + sqrt(mean[n] v[n,p]^2)"


def row_of(v):
    return (v / (0.7 + v.square().sum(1))[:, None]).mean(0)


def scale_of(v):
    return 0.7 + v.square().mean(0).sqrt()


class Formula:
    """A random symmetric formula, as text and as its dense value on one block."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def weight(self) -> tuple[str, object]:
        return self.random.choice(
            [
                ("1", lambda v: torch.ones(len(v)).to(v)),
                ("1 / (d + sum[p''] v[n,p'']^2)", lambda v: 1 / (0.7 + v.square().sum(1))),
                ("sqrt(sum[p''] abs(v[n,p''])) * d", lambda v: v.abs().sum(1).sqrt() * 0.7),
                ("exp(-mean[p''] v[n,p''])", lambda v: (-v.mean(1)).exp()),
                ("max(sum[p''] v[n,p'']^2, d)", lambda v: v.square().sum(1).clamp(min=0.7)),
            ]
        )

    def matrix(self, row: str, column: str) -> tuple[str, object]:
        text, weight = self.weight()
        mean = self.random.choice([True, False])
        word = "mean" if mean else "sum"
        dense = lambda v, C: v.T @ (weight(v)[:, None] * v) / (len(v) if mean else 1)  # noqa: E731
        return self.random.choice(
            [
                (f"C[{row},{column}]", lambda v, C: C),
                (f"({word}[n] {text} * v[n,{row}] * v[n,{column}])", dense),
                (f"(r[{row}] * r[{column}])", lambda v, C: torch.outer(row_of(v), row_of(v))),
                (f"(identity[{row},{column}] / t[{row}])", lambda v, C: (1 / scale_of(v)).diag()),
                (
                    f"(mean[n] (v[n,{row}] - r[{row}]) * (v[n,{column}] - r[{column}]) / size[n])",
                    lambda v, C: (v - row_of(v)).T @ (v - row_of(v)) / len(v) ** 2,
                ),
            ]
        )

    def number(self) -> tuple[str, object]:
        return self.random.choice(
            [
                ("d", lambda v: 0.7),
                (
                    "1 / (d + mean[n] sum[p''] v[n,p'']^2)",
                    lambda v: 1 / (0.7 + v.square().sum(1).mean()),
                ),
                ("sum[p''] r[p'']^2 / t[p'']", lambda v: (row_of(v) ** 2 / scale_of(v)).sum()),
                (
                    "sum[n] mean[p''] v[n,p'']^2 / size[p]",
                    lambda v: v.square().mean(1).sum() / v.shape[1],
                ),
            ]
        )

    def term(self) -> tuple[str, object]:
        text, value = self.number()
        match self.random.randrange(3):
            case 0:
                return (
                    f"({text}) * identity[p,p']",
                    lambda v, C: value(v) * torch.eye(v.shape[1]).to(v),
                )
            case 1:
                inner, dense = self.matrix("p", "p'")
                return f"({text}) * {inner}", lambda v, C: value(v) * dense(v, C)
            case _:
                state = self.random.getstate()
                left, dense = self.matrix("p", "p'''")
                self.random.setstate(state)
                right, _ = self.matrix("p'''", "p'")
                return (
                    f"({text}) * (sum[p'''] {left} * {right})",
                    lambda v, C: value(v) * dense(v, C) @ dense(v, C),
                )

    def draw(self) -> tuple[str, object]:
        terms = [self.term() for _ in range(self.random.randint(1, 3))]
        text = " - ".join(t for t, _ in terms)
        first, *rest = [d for _, d in terms]
        return text, lambda v, C: first(v, C) - sum((d(v, C) for d in rest), 0 * C)


@pytest.mark.parametrize("seed", range(40))
def test_random_formulas_are_applied_as_their_dense_reading(task, seed):
    text, dense = Formula(seed).draw()
    declared = f"inverse drawn(d = 0.7) {{ needs v[n,p], C[p,p'] {ROWS} yield K[p,p'] = {text} }}"
    by = random.Random(seed).choice(["layer", None])
    operator = fitted(task, by, "drawn", declared)
    C, v = fitted(task, by, "tikhonov").dense(), gradients(task, "train")
    x = torch.randn(task.P, 2, dtype=torch_double)
    wanted = torch.cat([dense(v[:, b], C[b, b]) @ x[b] for b in BLOCKS[by]])
    torch.testing.assert_close(operator.inverse() @ x, wanted, rtol=1e-9, atol=1e-9)


TWICE = "F[p,p'] = mean[n] v[n,p] * v[n,p'] / (1 + sum[p''] v[n,p'']^2) yield K[p,p'] = identity[p,p'] + sum[p'',p'''] F[p,p''] * C[p'',p'''] * F[p''',p']"
MEANS = "m[p] = mean[n] v[n,p] c[p] = sum[p'] C[p,p'] * m[p'] b = sum[p] m[p] * c[p] yield K[p,p'] = identity[p,p'] + b * m[p] * m[p'] + (m[p] * c[p'] + c[p] * m[p']) / 2"


@pytest.mark.parametrize("body", [TWICE, MEANS])
def test_products_of_what_is_defined_once(task, body):
    operator = fitted(task, None, "drawn", f"inverse drawn {{ needs v[n,p], C[p,p'] {body} }}")
    C, v = fitted(task, None, "tikhonov").dense(), gradients(task, "train")
    F = (v.T / (1 + v.square().sum(1))) @ v / len(v)
    m, c = v.mean(0), C @ v.mean(0)
    means = (m @ c) * torch.outer(m, m) + (torch.outer(m, c) + torch.outer(c, m)) / 2
    wanted = torch.eye(len(C), dtype=torch_double) + (F @ C @ F if body == TWICE else means)
    torch.testing.assert_close(operator.inverse().dense(), wanted, rtol=1e-9, atol=1e-9)


def test_sherman_and_morrison_of_the_mean_gradient_invert_its_outer_product(task):
    text = "inverse own(d = 0.1) { needs v[n,p] m[p] = mean[n] v[n,p] a[p] = d + sqrt(mean[n] v[n,p]^2) yield K[p,p'] = identity[p,p'] / a[p] - m[p] * m[p'] / a[p] / a[p'] / (1 + sum[p''] m[p'']^2 / a[p'']) }"
    operator, v = fitted(task, "layer", "own", text), gradients(task, "train")
    for block in BLOCKS["layer"]:
        m, a = v[:, block].mean(0), 0.1 + v[:, block].square().mean(0).sqrt()
        wanted = torch.linalg.inv(a.diag() + torch.outer(m, m))
        found = operator.inverse().dense()[block, block]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("E0261", "needs v[n,p] yield K[p,p'] = mean[n] v[n,p] * abs(v[n,p'])"),
        (
            "E0261",
            "needs v[n,p], C[p,p'] m[p] = mean[n] v[n,p] b = sum[p,p'] m[p] * C[p,p'] * m[p'] yield K[p,p'] = identity[p,p'] * b",
        ),
        (
            "E0262",
            "needs v[n,p] m[p] = mean[n] v[n,p] yield K[p,p'] = identity[p,p'] + m[p] * m[p']^2",
        ),
        ("E0260", "needs a[n,t,i] yield K[p,p'] = identity[p,p']"),
        ("E0260", "needs v[n,p] yield K[p,p'] = w * identity[p,p']"),
        ("E0260", "needs C[p,p'] yield K[p,p'] = trace(C) * identity[p,p']"),
        ("E0260", "needs v[n,p] w[n] = sum[p] v[n,p]"),
        ("E0260", "needs v[n,p] yield K[p] = mean[n] v[n,p]"),
        ("E0261", "needs C[p,p'] yield K[p,p'] = sqrt(C[p,p'])"),
        ("E0261", "needs v[n,p] yield K[p,p'] = mean[n] v[n,p] + identity[p,p']"),
        (
            "E0261",
            "needs v[n,p] yield K[p,p'] = mean[n] v[n,p] * v[n,p'] * (sum[p''] v[n,p''] * v[n,p])",
        ),
        ("E0261", "needs C[p,p'] yield K[p,p'] = (sum[p''] C[p'',p'']) * identity[p,p']"),
        ("E0261", "needs C[p,p'] yield K[p,p'] = 1 / C[p,p']"),
        (
            "E0262",
            "needs v[n,p], C[p,p'] yield K[p,p'] = mean[n] (sum[p''] C[p,p''] * v[n,p'']) * v[n,p']",
        ),
    ],
)
def test_refusals(code, body):
    assert_refused(code, lambda: loads(f"inverse wrong {{ {body} }}\ncurvature c = ggn\n"))


def test_without_examples_it_is_refused(task, tmp_path):
    operator = fitted(task, "layer", "tikhonov(damping = 0.1)")
    operator.save(tmp_path / "kept")
    again = cv.load_operator(tmp_path / "kept")
    assert_refused("E0263", lambda: cv.influence(again, task, inverse="datainf"))


def test_a_sum_of_curvatures_has_its_examples(task):
    text = f"curvature a = {FISHER} |> block_diagonal\ncurvature s = 0.5 * a + 0.5 * block_ggn\n"
    operator = cv.fit(loads(text), task, curvature="s")
    alone = fitted(task, "layer", "tikhonov")
    scores = [cv.influence(x, task, inverse="datainf") for x in (operator, alone)]
    torch.testing.assert_close(*scores, **CLOSE)
