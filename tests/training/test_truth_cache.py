"""Kept ground truth: what an earlier version kept is used, what does not fit is not, and that is said once."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.evaluation.retraining.truth_request import truth_key
from curvlang.storage.cache import Cache
from curvlang.training.truth_cache import StartsOver, TruthCache, truth_cache

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LDS = cv.LDS(subsets=2, retrains=1, bootstrap=10)


def huber(f, y, delta=1.0):
    return nn.functional.huber_loss(f, y, delta=delta)


class Own(nn.Linear):
    """A model of the user's."""


def task(loss="mse", model=nn.Linear):
    def make(seed):
        torch.manual_seed(seed)
        return model(2, 2).double()

    X = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(10, 2)
    recipe = cv.Recipe(lr=0.1, epochs=1, batch=5)
    return cv.Task(make(0), loss, (X, X.sin()), (X[:2], X[:2].cos()), build=make, recipe=recipe)


def truth(cache, **given):
    return ground_truth(task(**given), LDS, 0, cache=Cache(cache))


def said(action):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", StartsOver)
        result = action()
    return result, [str(x.message) for x in found if x.category is StartsOver]


def test_what_an_earlier_version_kept_is_used_and_gets_its_place(tmp_path):
    first, notes = said(lambda: truth(tmp_path))
    assert (first.trained, notes) == (2, [])
    (kept,) = tmp_path.rglob("*.bin")
    place = f"cpu-torch{torch.__version__.partition('+')[0]}"
    assert kept.name == f"k0-2-r0-1@{place}.bin"
    kept.rename(kept.with_name("r0-u0-2.bin"))
    again, notes = said(lambda: truth(tmp_path))
    assert (again.trained, again.reused, notes) == (0, 2, [])
    assert torch.equal(again.outcome, first.outcome)
    assert [*tmp_path.rglob("*.bin")] == [kept.with_name(f"r0-u0-2@{place}.bin")]


def test_keys_of_tasks_without_own_code_are_those_of_earlier_versions():
    for loss in ("mse", nn.HuberLoss(), functools.partial(nn.functional.huber_loss, delta=2.0)):
        one = task(loss)
        assert truth_key(one, LDS, 0) == truth_key(one, LDS, 0, by_name=True)
    for own in (task(huber), task(model=Own)):
        assert truth_key(own, LDS, 0) != truth_key(own, LDS, 0, by_name=True)


def test_another_release_of_torch_starts_over_and_says_so_once(tmp_path, monkeypatch):
    truth(tmp_path)
    now = torch.__version__.partition("+")[0]
    monkeypatch.setattr(torch, "__version__", "99.1.0+cu999")
    other, notes = said(lambda: truth(tmp_path))
    assert other.trained == 2
    (note,) = notes
    assert note == (
        f"models are retrained: the ground truth that is kept is of cpu-torch{now}, "
        "not of cpu-torch99.1.0"
    )
    again, notes = said(lambda: truth(tmp_path))
    assert (again.trained, notes) == (0, [])
    monkeypatch.undo()
    assert truth(tmp_path).trained == 0


def test_another_kind_of_device_starts_over(tmp_path):
    cache = Cache(tmp_path)
    truth(tmp_path)
    (key,) = {x.parent.name for x in tmp_path.rglob("*.bin")}
    for device, notes in (("cpu", 0), ("cuda", 1)):
        found, told = said(lambda d=device: truth_cache(cache, torch.device(d), key, str, ""))
        assert len(told) == notes
        assert (found.get(key, "k0-2-r0-1") is None) == (device == "cuda")
    # What an earlier version kept may be of either: it is taken for a processor's alone.
    (kept,) = tmp_path.rglob("*.bin")
    kept.rename(kept.with_name("r0-u0-2.bin"))
    gpu, told = said(lambda: truth_cache(cache, torch.device("cuda"), key, str, ""))
    assert gpu.get(key, "r0-u0-2") is None
    assert "of an earlier version" in told[0]
    assert isinstance(gpu, TruthCache)


@pytest.mark.parametrize("given", [{"loss": huber}, {"model": Own}])
def test_own_code_starts_over_once(given, tmp_path):
    first = truth(tmp_path, **given)
    (kept,) = tmp_path.rglob("*.bin")
    old = truth_key(task(**given), LDS, 0, by_name=True)
    (tmp_path / old[:2] / old).mkdir(parents=True)
    kept.rename(tmp_path / old[:2] / old / "r0-u0-2.bin")
    again, notes = said(lambda: truth(tmp_path, **given))
    assert (again.trained, len(notes)) == (2, 1)
    assert "by its name alone" in notes[0]
    assert torch.equal(again.outcome, first.outcome)
    assert said(lambda: truth(tmp_path, **given))[1] == []


def test_a_changed_loss_is_another_truth(tmp_path):
    for delta, trained in ((50.0, 2), (60.0, 2), (50.0, 0)):
        # No output of a probe is that large: values alone would not tell them apart.
        loss = functools.partial(huber, delta=delta)
        assert truth(tmp_path, loss=loss).trained == trained


def test_content_that_cannot_be_read_is_not_kept(tmp_path):
    class Locked:
        def __init__(self):
            self.lock = threading.Lock()

        def __call__(self, f, y):
            return huber(f, y)

    for _ in range(2):
        found, notes = said(lambda: truth(tmp_path, loss=Locked()))
        assert found.trained == 2
        assert "is not kept" in notes[0]
    assert [*tmp_path.rglob("*")] == []


SCRIPT = """
import sys, functools, pathlib
from tests.training.test_truth_cache import huber, truth
print(truth(pathlib.Path(sys.argv[1]), loss=functools.partial(huber, delta=2.0)).trained)
"""


def test_another_process_finds_what_this_one_kept(tmp_path):
    assert truth(tmp_path, loss=functools.partial(huber, delta=2.0)).trained == 2
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "0\n"
