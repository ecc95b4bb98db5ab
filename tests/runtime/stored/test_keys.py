"""What decides a fit is hashed once in a command, and what changes is seen."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.models import fingerprint
from curvlang.models.fingerprint import digest
from curvlang.runtime.stored.keys import TaskContent
from tests.runtime.stored.work import task

SOURCE = cv.TaskSource("digits(hidden = [4], epochs = 1)")


@pytest.fixture
def hashes(monkeypatch):
    """The shapes of all rows that were hashed."""
    found, real = [], fingerprint.hashed

    def counted(*parts, after=None):
        found.extend(tuple(x.shape) for x in parts if not isinstance(x, str) and len(x.shape) == 2)
        return real(*parts, after=after)

    monkeypatch.setattr(fingerprint, "hashed", counted)
    return found


def test_the_training_data_are_hashed_once_in_a_command(hashes, tmp_path):
    setup = cv.Setup(store=tmp_path / "s")
    for request in (cv.fit_request, cv.fit_request, cv.score_request):
        hashes.clear()
        asked = request("kfac", SOURCE, setup=setup)
        rows = (asked.task.N, 64)
        asked.run(False)
        assert hashes.count(rows) == 1


def test_an_evaluation_hashes_them_once_too(hashes, tmp_path):
    settings = cv.EvaluationSettings(SOURCE, lds=False, setup=cv.Setup(store=tmp_path / "s"))
    (report,) = cv.evaluate_requests(cv.evaluation_requests(["kfac"], settings), progress=False)
    assert hashes.count((1617, 64)) == 1
    assert report.run.problem is None


def test_parameters_that_are_ignored_have_the_same_data(hashes, tmp_path):
    given = task()
    cv.fit("kfac", given, store=tmp_path / "s", progress=False)
    cv.fit("kfac", given.restricted(given.parameters[:2]), store=tmp_path / "t", progress=False)
    assert hashes.count((given.N, 7)) == 1


@pytest.mark.parametrize("through", [torch.float32, torch.float16, torch.float64])
def test_a_copy_has_the_hash_of_its_own_content(through):
    given = task()
    TaskContent(given).data  # noqa: B018
    copy = given.to(dtype=through).to(dtype=torch.float64)
    assert TaskContent(copy).data == digest(*copy.train)
    assert TaskContent(given).data == digest(*given.train)
    assert TaskContent(given).data_in(through) == digest(*given.to(dtype=through).train)


def test_a_change_in_place_is_seen_in_every_copy():
    given = task().to(dtype=torch.float32)
    first = TaskContent(given.to(dtype=torch.float64)).data
    with torch.no_grad():
        given.train[0][3, 2] += 1.0
    copy = given.to(dtype=torch.float64)
    assert TaskContent(copy).data == digest(*copy.train) != first
    with torch.no_grad():
        copy.train[0][0, 0] += 1.0
    assert TaskContent(copy).data == digest(*copy.train)
    assert TaskContent(given.to(dtype=torch.float64)).data != TaskContent(copy).data
