"""An evaluation with a store: the same numbers, nothing fitted or trained twice, what does not fit refused first."""

from __future__ import annotations

import pytest

import curvlang as cv
from curvlang.runtime.execute import Execution
from curvlang.training import baseline

SOURCE = cv.TaskSource("digits(hidden = [4], epochs = 1)")


@pytest.fixture
def done(monkeypatch):
    """How often a batch was added up, and how often a model was trained."""
    found = {"fed": 0, "trained": 0}
    feed, train = Execution.feed, baseline.train_baseline

    def fed(self, *given):
        found["fed"] += 1
        return feed(self, *given)

    def trained(*given):
        found["trained"] += 1
        return train(*given)

    monkeypatch.setattr(Execution, "feed", fed)
    monkeypatch.setattr(baseline, "train_baseline", trained)
    return found


def evaluated(store, *specs):
    """The numbers of an evaluation of the first spec."""
    settings = cv.EvaluationSettings(SOURCE, lds=False, setup=cv.Setup(store=store))
    asked = cv.evaluation_requests(specs or ["kfac"], settings)
    (report,) = cv.evaluate_requests(asked, progress=False)
    found = report.to_json()
    return {name: found[name] for name in found if name not in ("provenance", "times")}


def test_it_gives_the_same_numbers_and_fits_nothing_twice(done, tmp_path):
    plain = evaluated(None)
    assert done["trained"] == 1
    assert evaluated(tmp_path / "s") == plain
    done.update(fed=0, trained=0)
    assert evaluated(tmp_path / "s") == plain
    assert done == {"fed": 0, "trained": 0}
    cv.fit_request("kfac", SOURCE, cv.Setup(store=tmp_path / "s")).run(False)
    assert done == {"fed": 0, "trained": 0}


def test_one_that_was_stopped_goes_on(done, tmp_path, monkeypatch):
    plain, close, ended = evaluated(None), Execution.close, []

    def stop(self, *given):
        close(self, *given)
        ended.append(self)
        if len(ended) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Execution, "close", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluated(tmp_path / "s")
    done.update(fed=0, trained=0)
    assert evaluated(tmp_path / "s") == plain
    assert done["trained"] == 0


def test_what_does_not_fit_is_refused_before_anything_is_trained(done, tmp_path):
    with pytest.raises(cv.SpecError, match="E0838"):
        evaluated(tmp_path / "s", "kfac", "ekfac")
    evaluated(tmp_path / "s")
    done.update(fed=0, trained=0)
    with pytest.raises(cv.SpecError, match="E0835"):
        evaluated(tmp_path / "s", "ekfac")
    assert done == {"fed": 0, "trained": 0}
