"""Rows on disk are held a batch at a time, and what reading takes is part of the prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.models.data import rows
from curvlang.models.task import Task
from curvlang.runtime.limits.activations import live_bytes, reading_bytes
from curvlang.runtime.limits.memory import limited
from tests.models.sources.support import nothing_fits

__all__ = ["nothing_fits"]

WIDTH, LIMIT, TIMES = 512, 2**20, 8
N = TIMES * LIMIT // (4 * WIDTH)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    pool = torch.nn.Unflatten(1, (1, WIDTH)), torch.nn.AvgPool1d(32), torch.nn.Flatten()
    return torch.nn.Sequential(*pool, torch.nn.Linear(WIDTH // 32, 2)).eval()


def task_of(x: object, n: int) -> Task:
    y = torch.arange(n) % 2
    return cv.Task(model(), "cross_entropy", (x, y), (torch.ones(2, WIDTH), y[:2]))


@pytest.mark.usefixtures("nothing_fits")
def test_data_eight_times_larger_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of all tensors together; `python -m tests.bench.data_on_disk` measures the process."""
    rng = np.random.default_rng(0)
    array = rng.standard_normal((N, WIDTH), dtype="f4")
    np.save(tmp_path / "x.npy", array)
    monkeypatch.setattr(rows, "READ", 2**18)
    found: list[Task] = []
    opened = live_bytes(lambda: found.append(task_of(cv.rows(tmp_path / "x.npy"), N)))
    assert opened < LIMIT
    (task,) = found
    spec = cv.loads("curvature mine = block_ggn |> kronecker_factor")
    memory = task_of(torch.from_numpy(array), N)
    held, predicted = [], []
    with limited(LIMIT):
        for own in (task, memory):
            predicted.append(cv.explain(spec, own).peak)
            held.append(live_bytes(lambda own=own: cv.fit(spec, own, progress=False)))  # type: ignore[misc]
    # What reading takes makes the batches smaller, so that both predictions stay below the limit.
    assert held[1] < held[0]
    for own, expected in zip(held, predicted, strict=True):
        assert own < 1.2 * expected < 1.2 * LIMIT
    assert held[0] < TIMES * LIMIT // 4
    op = cv.fit(spec, task, progress=False)
    scored = live_bytes(lambda: cv.influence(op, task, damping=0.1, progress=False))
    assert scored < TIMES * LIMIT // 2


@pytest.mark.usefixtures("nothing_fits")
def test_what_reading_takes_is_measured(tmp_path: Path) -> None:
    np.save(tmp_path / "f4.npy", np.ones((4, WIDTH), "f4"))
    np.save(tmp_path / "u1.npy", np.ones((4, WIDTH), "u1"))
    assert reading_bytes(task_of(torch.ones(4, WIDTH), 4)) == 0
    assert reading_bytes(task_of(cv.rows(tmp_path / "f4.npy"), 4)) == 2 * 4 * WIDTH
    scaled = cv.rows(tmp_path / "u1.npy", transform=lambda x: x.float() / 255)
    # The row, and of the next one bytes, int64 and float32, some of which are let go of before others.
    assert 4 * WIDTH + 12 * WIDTH <= reading_bytes(task_of(scaled, 4)) <= 4 * WIDTH + 17 * WIDTH
