"""A store that several processes work on: one holds it for all, each writes its share, all have the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import curvlang as cv
from curvlang.runtime.execute import Execution
from tests.processes import together
from tests.runtime.stored.work import task

SPECS = ("ekfac", "kfac", "low_rank", "diagonal")
LONG = 240
"""Seconds, on a machine with other work: several fits in a call."""


def fitted(spec, store, n=400):
    """A fit, how often it fed a batch, and which blocks' files this process wrote."""
    fed, wrote = [], []
    feed, replace = Execution.feed, Path.replace
    Execution.feed = lambda self, *given: (fed.append(1), feed(self, *given))[1]

    def noted(self, target):
        wrote.append(str(target))
        return replace(self, target)

    Path.replace = noted
    try:
        op = cv.fit(spec, task(N=n), store=store, progress=False)
    finally:
        Execution.feed, Path.replace = feed, replace
    v = torch.linspace(-1, 1, op.shape[0], dtype=torch.float64)
    return [op @ v, op.inverse(0.1) @ v, len(fed), [x for x in wrote if "results" in x]]


def all_fitted(folder, n=400):
    """The same of several specs, one after the other."""
    return [fitted(spec, folder and f"{folder}/{spec}", n) for spec in SPECS]


@pytest.fixture(scope="module")
def alone():
    """By one process, without a store."""
    return together(all_fitted, 1, None, limit=LONG)[0]


@pytest.mark.parametrize("size", [2, 3])
def test_each_process_writes_its_share_and_all_have_the_same(size, alone, tmp_path):
    found = together(all_fitted, size, str(tmp_path), limit=LONG)
    for k, spec in enumerate(SPECS):
        store = tmp_path / spec
        for one in found:
            assert torch.equal(one[k][0], alone[k][0])
            assert torch.equal(one[k][1], alone[k][1])
        files = [x for one in found for x in one[k][3] if x.endswith(".safetensors")]
        assert len(files) == len(set(files)) == len(list(store.glob("results/*/*.safetensors")))
        assert all(one[k][3] for one in found[: len(files)])
        assert not list((store / "work").iterdir())
    again = together(all_fitted, 5 - size, str(tmp_path), limit=LONG)
    for one in again:
        assert [x[2:] for x in one] == [[0, []]] * len(SPECS)
        assert all(torch.equal(x[0], y[0]) for x, y in zip(one, alone, strict=True))
