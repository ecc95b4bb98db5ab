"""kronfluence and ours on the same models: its folders, its scores, and tasks of ours."""

from __future__ import annotations

import gc
import logging
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import curvlang as cv

pytest.importorskip("kronfluence", reason="`pip install --no-deps kronfluence==1.0.1`")
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task

N, Q = 14, 3
ANALYSIS = "analysis"


class SummedLoss(Task):
    """The loss summed over the batch, and over the positions of every example."""

    def __init__(self, modules=None):
        self.modules = modules

    def compute_train_loss(self, batch, model, sample=False):
        assert not sample
        x, y = batch
        f = model(x)
        if y.is_floating_point():
            return (f - y).square().flatten(1).mean(1).sum()
        return functional.cross_entropy(f.flatten(0, -2), y.flatten(), reduction="sum")

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self.modules


class Peer:
    """kronfluence on the model and the data of a task; its modules wrap the model's, hence a copy."""

    def __init__(self, task, folder, modules=None, model=None):
        self.folder, self.task = folder, task
        rules = SummedLoss(modules)
        wrapped = prepare_model(deepcopy(model or task.model), rules)
        self.analyzer = Analyzer(
            ANALYSIS, wrapped, rules, cpu=True, output_dir=str(folder), disable_tqdm=True
        )

    def factors(self, name="theirs", **words):
        """The folder of factors that it has fitted."""
        self.analyzer.fit_all_factors(
            name, TensorDataset(*self.task.train), per_device_batch_size=5,
            factor_args=FactorArguments(**({"use_empirical_fisher": True} | words)),
        )  # fmt: skip
        return self.place(name)

    def place(self, name):
        return self.folder / ANALYSIS / f"factors_{name}"

    def scores(self, name, damping, **words):
        """Its scores [Q, N] with the factors of that name, and the folder that has them."""
        made = f"{name}_{damping}"
        self.analyzer.compute_pairwise_scores(
            made, name, TensorDataset(*self.task.query), TensorDataset(*self.task.train),
            per_device_query_batch_size=2, per_device_train_batch_size=5,
            score_args=ScoreArguments(damping_factor=damping, **words),
        )  # fmt: skip
        return self.analyzer.load_pairwise_scores(made), self.folder / ANALYSIS / f"scores_{made}"


@pytest.fixture
def quick(monkeypatch):
    """It collects garbage between all its steps, which takes most of the time of small ones; and it logs."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)


class Tokens(nn.Module):
    """Two layers over positions, one of them without a bias, with or without a norm."""

    def __init__(self, norm=True):
        super().__init__()
        self.up, self.norm = nn.Linear(4, 6, bias=False), nn.LayerNorm(6, elementwise_affine=norm)
        self.down = nn.Linear(6, 5)

    def forward(self, x):
        return self.down(self.norm(torch.tanh(self.up(x))))


def built(kind):
    """A model and its examples, N + Q of them."""
    torch.manual_seed(0)
    total = N + Q
    match kind:
        case "mlp":
            model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5, bias=False))
            return model, torch.randn(total, 6), torch.randint(0, 5, (total,))
        case "regression":
            model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
            return model, torch.randn(total, 6), torch.randn(total, 2)
        case "tokens":
            return Tokens(norm=False), torch.randn(total, 3, 4), torch.randint(0, 5, (total, 3))
        case "cnn":
            model = nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(),
                nn.Conv2d(3, 4, 2, bias=False, dilation=2), nn.Tanh(),
                nn.Flatten(), nn.Linear(4, 5),
            )  # fmt: skip
            return model, torch.randn(total, 2, 6, 6), torch.randint(0, 5, (total,))


KINDS = ["mlp", "regression", "tokens", "cnn"]


def task_of(kind, dtype=torch.float32):
    model, X, y = built(kind)
    model, X = model.to(dtype).eval(), X.to(dtype)
    y = y.to(dtype) if y.is_floating_point() else y
    loss = "mse" if y.is_floating_point() else "cross_entropy"
    return cv.Task(model, loss, (X[:N], y[:N]), (X[N:], y[N:]))
