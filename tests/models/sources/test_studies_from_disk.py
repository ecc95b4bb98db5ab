"""Evaluations and retraining read rows on disk, and give what rows in memory give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.storage.cache import Cache
from tests.models.sources.support import X, Y, nothing_fits

__all__ = ["nothing_fits"]


def build(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 3)).eval()


@pytest.mark.usefixtures("nothing_fits")
def test_retrained_models_and_their_cache_are_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    found, kept = [], []
    stored = cv.rows(tmp_path / "x.npy"), cv.rows(tmp_path / "y.npy")
    for train in ((X, Y), stored):
        task = cv.Task(
            build(0),
            "cross_entropy",
            train,
            (X[:4], Y[:4]),
            build=build,
            recipe=cv.Recipe(lr=0.1, batch=5, epochs=2),
        )
        cache = Cache(tmp_path / f"cache{len(found)}")
        protocol = cv.LDS(subsets=4, keep=0.5, retrains=1)
        result = cv.evaluate("kfac", task, protocol=protocol, cache=cache, progress=False)
        found.append([p.lds.estimate for s in result.steps for p in s.points if p.lds])
        kept.append(sorted(str(p.relative_to(cache.root)) for p in cache.root.rglob("*.bin")))
    assert found[0]
    assert kept[0]
    assert found[0] == found[1]
    assert kept[0] == kept[1]
