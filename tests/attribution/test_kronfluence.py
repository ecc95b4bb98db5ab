"""Scores against kronfluence 1.0.1: EK-FAC of the empirical Fisher with exact damping, float32.

Its loss is a sum over the batch, its spectrum a mean over the examples, its scores (query, train)
without 1/N. Two things make it differ: it takes a module's weight and bias as one block, as we do,
but leaves layers that it does not know out of the score; and its K-FAC on sequences divides by the
number of positions once more.
"""

from __future__ import annotations

import gc
import logging
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import curvlang as cv
from tests.models.support import assert_different
from tests.small import network

pytest.importorskip("kronfluence", reason="`pip install --no-deps kronfluence==1.0.1`")
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task

CLOSE = 1e-5
"""Float32, relative to the largest score: both sum a few thousand products of order one."""
N, Q = 24, 5


class SummedLoss(Task):
    """The loss summed over the batch, and over the positions of every example."""

    def compute_train_loss(self, batch, model, sample=False):
        assert not sample
        x, y = batch
        f = model(x)
        return functional.cross_entropy(f.flatten(0, -2), y.flatten(), reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)


class Transformer(nn.Module):
    """One block of causal attention and a perceptron, of Linear layers alone; positions kept."""

    def __init__(self, width=6, classes=5):
        super().__init__()
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 8), nn.Linear(8, width, bias=False)
        self.head = nn.Linear(width, classes)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x):
        q, k, v = self.queries_keys_values(self.norm(x)).chunk(3, -1)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(self._later(x), -torch.inf)
        x = x + self.mixed(weights.softmax(-1) @ v)
        return self.head(x + self.down(functional.gelu(self.up(self.norm(x)))))

    def _later(self, x):
        return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)


def built(kind):
    """A model and its examples, N + Q of them."""
    torch.manual_seed(0)
    match kind:
        case "mlp":
            model, X = network([6, 8, 5]).float(), torch.randn(N + Q, 6)
            return model, X, torch.randint(0, 5, (N + Q,))
        case "transformer":
            model, X = Transformer().eval(), torch.randn(N + Q, 4, 6)
            return model, X, torch.randint(0, 5, (N + Q, 4))
        case "cnn":
            model = nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(),
                nn.Conv2d(3, 4, 2, bias=False, dilation=2), nn.Tanh(),
                nn.Flatten(), nn.Linear(4, 5),
            )  # fmt: skip
            return model.eval(), torch.randn(N + Q, 2, 6, 6), torch.randint(0, 5, (N + Q,))


def task_of(kind):
    model, X, y = built(kind)
    return cv.Task(model, "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))


@contextmanager
def quiet():
    """Their warnings are not shown; the log of the process is as before afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def theirs(task, folder, strategy="ekfac"):
    """Their scores [Q, N] as a function of the damping.

    Their modules wrap the model's in place, hence a copy.
    """
    rules = SummedLoss()
    model = prepare_model(deepcopy(task.model), rules)
    analyzer = Analyzer("a", model, rules, cpu=True, output_dir=str(folder), disable_tqdm=True)
    train, query = TensorDataset(*task.train), TensorDataset(*task.query)
    with quiet():
        analyzer.fit_all_factors(
            "f", train, per_device_batch_size=16,
            factor_args=FactorArguments(strategy=strategy, use_empirical_fisher=True),
        )  # fmt: skip

    def scores(damping):
        with quiet():
            analyzer.compute_pairwise_scores(
                f"{damping}", "f", query, train, per_device_query_batch_size=Q,
                per_device_train_batch_size=16, score_args=ScoreArguments(damping_factor=damping),
            )  # fmt: skip
        return analyzer.load_pairwise_scores(f"{damping}")["all_modules"]

    return scores


def assert_close(found, expected, tolerance=CLOSE):
    difference = float((found.double() - expected.double()).abs().max())
    assert difference <= tolerance * float(expected.abs().max()), difference


pytestmark = pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """It collects garbage between all its steps, which takes most of the time of small ones."""
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "transformer"])
def test_scores_are_theirs(kind, tmp_path):
    task = task_of(kind)
    op, other, found = (
        cv.fit("ekfac_empirical", task),
        cv.fit("ekfac", task),
        theirs(task, tmp_path),
    )
    for damping in (1e-3, 1e-1):
        expected = found(damping)
        assert_close(cv.influence(op, task, damping=damping), expected)
        # Another curvature of the family is not the same thing.
        with pytest.raises(AssertionError):
            assert_close(cv.influence(other, task, damping=damping), expected, 1e-2)


KFAC = cv.loads(
    """curvature mine = hessian |> drop_residual(fisher = empirical)
    |> block_diagonal(by = layer) |> kronecker_factor"""
)


def gradients(task, pair):
    """∇ℓ_n by autodiff, one example at a time."""
    rows = []
    for x, y in zip(*pair, strict=True):
        loss = SummedLoss().compute_train_loss((x[None], y[None]), task.model)
        found = torch.autograd.grad(loss, list(task.model.parameters()))
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def test_a_kronecker_product_of_vectors_is_theirs(tmp_path):
    task = task_of("mlp")
    ours = cv.influence(cv.fit(KFAC, task), task, damping=1e-2)
    assert_close(ours, theirs(task, tmp_path, "kfac")(1e-2))


def test_their_kronecker_product_of_sequences_is_divided_by_the_positions_twice(tmp_path):
    """One position of each example counts, and all inputs are one vector: expand is exact.

    The block is then E[g gᵀ] ⊗ a aᵀ, which autodiff gives and theirs is a T-th of.
    """
    torch.manual_seed(0)
    T, damping = 3, 1e-2
    X = torch.randn(6).expand(N + Q, T, 6).contiguous()
    y = torch.full((N + Q, T), -100)
    y[:, 1] = torch.randint(0, 5, (N + Q,))
    model = nn.Sequential(nn.Linear(6, 5, bias=False)).eval()
    task = cv.Task(model, "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))
    rows, queries = gradients(task, task.train), gradients(task, task.query)

    def by_autodiff(scale):
        block = scale * rows.T @ rows / N + damping * torch.eye(rows.shape[1])
        return queries @ torch.linalg.solve(block, rows.T)

    found = theirs(task, tmp_path, "kfac")(damping)
    assert_close(cv.influence(cv.fit(KFAC, task), task, damping=damping), by_autodiff(1))
    assert_close(found, by_autodiff(1 / T))
    assert_different(found.double(), by_autodiff(1).double())


class Twice(nn.Module):
    """One layer called twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


def test_a_layer_called_twice_is_ours_alone(tmp_path):
    """At a damping beyond all eigenvalues λ · score is the product of two gradients."""
    torch.manual_seed(0)
    X, y = torch.randn(N + Q, 6), torch.randint(0, 5, (N + Q,))
    task = cv.Task(Twice().eval(), "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))
    expected = gradients(task, task.query) @ gradients(task, task.train).T
    op = cv.fit("ekfac_empirical", task)
    large = 1e6
    assert_close(large * cv.influence(op, task, damping=large), expected)
    assert_different(large * theirs(task, tmp_path)(large).double(), expected.double())
    square_norms = gradients(task, task.train).square().sum(1)
    assert float(op.trace()) == pytest.approx(float(square_norms.mean()), rel=CLOSE)


class Embedded(nn.Module):
    """Tokens through an embedding and a normalisation with a scale and a shift."""

    def __init__(self):
        super().__init__()
        self.tokens, self.norm = nn.Embedding(7, 6), nn.LayerNorm(6)
        self.hidden, self.head = nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, ids):
        return self.head(torch.tanh(self.hidden(self.norm(self.tokens(ids)))))


OTHERS = cv.loads(
    """curvature mine = hessian |> drop_residual(fisher = empirical) |> block_diagonal(by = layer)
    |> kronecker_factor(others = diagonal) |> eigen_correct(others = diagonal)"""
)


def test_embeddings_and_norms_are_in_our_scores_alone(tmp_path):
    torch.manual_seed(0)
    X, y = torch.randint(0, 7, (N + Q, 3)), torch.randint(0, 5, (N + Q, 3))
    task = cv.Task(Embedded().eval(), "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))
    damping = 1e-2
    layers = cv.influence(cv.fit(OTHERS, task), task, damping=damping, per_layer=True)
    found = theirs(task, tmp_path)(damping)
    assert_close(layers["hidden"] + layers["head"], found)
    assert_different(sum(layers.values()), found.double())
    expected = gradients(task, task.query) @ gradients(task, task.train).T
    large = 1e6
    assert_close(large * cv.influence(cv.fit(OTHERS, task), task, damping=large), expected)


def test_a_grouped_convolution_is_ours_alone(tmp_path):
    """Each group is a block of its own: the trace is that of the gradients, by autodiff."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 5))
    X, y = torch.randn(N + Q, 4, 4, 4), torch.randint(0, 5, (N + Q,))
    task = cv.Task(model.eval(), "cross_entropy", (X[:N], y[:N]), (X[N:], y[N:]))
    op = cv.fit("ekfac_empirical", task)
    square_norms = gradients(task, task.train).square().sum(1)
    assert float(op.trace()) == pytest.approx(float(square_norms.mean()), rel=CLOSE)
    ours = cv.influence(op, task, damping=1e-2)
    assert_different(ours, theirs(task, tmp_path)(1e-2).double())
