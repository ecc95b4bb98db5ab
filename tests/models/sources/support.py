"""A small task, in memory and from rows that stay where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.models.data import derived_rows
from curvlang.models.task import Task

RNG = np.random.default_rng(0)
N = 24
X = RNG.standard_normal((N, 5)).astype(np.float32)
Y = RNG.integers(0, 3, N)


@pytest.fixture
def nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows stay where they are, however few."""
    monkeypatch.setattr(derived_rows, "HELD", 0)


def network() -> nn.Module:
    """Reads five numbers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


def assert_same_results(first: Task, second: Task) -> None:
    """Fingerprints, fitted blocks and scores are equal, bit for bit."""
    assert first.fingerprint() == second.fingerprint()
    assert first.data_fingerprint() == second.data_fingerprint()
    found = []
    for task in (first, second):
        op = cv.fit("ekfac", task, progress=False)
        found.append((op.dense(), cv.influence(op, task, damping=0.1, progress=False)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
