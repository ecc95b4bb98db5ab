"""Progress is shown as a line that says all by itself, not more often than needed, and in a store's log."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

import curvlang as cv
from curvlang.runtime.progress import display, lines
from curvlang.runtime.progress.display import Bars, shown
from tests.small import network
from tests.small import task as small


class Clock:
    """A clock that stands where it is put; the time of day goes with it."""

    noon = datetime(2026, 3, 1, 23, 0, 0)

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def today(self):
        return self.noon + timedelta(seconds=self.now)


@pytest.fixture
def clock(monkeypatch):
    found = Clock()

    class Day:
        now = staticmethod(found.today)

    monkeypatch.setattr(display.time, "monotonic", found.monotonic)
    monkeypatch.setattr(lines, "datetime", Day)
    monkeypatch.setattr(display, "BEAT", 1e6)
    return found


def counted(bars, clock, name, total, seconds, start=0.0):
    for k in range(1, total + 1):
        clock.now = start + seconds * k / total
        bars(name, k, total)


def test_a_line_says_what_how_far_and_the_end_with_its_time_of_day(clock, capsys):
    with Bars(command="curvlang fit") as bars:
        counted(bars, clock, "pass 1", 100, 100.0)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        "curvlang fit, pass 1: 10 of 100 after 10 s, about 90 s left, until 23:01:40"
    )
    assert said[-1] == "curvlang fit, pass 1: 100 of 100 after 100 s"


def test_lines_become_rarer_and_a_day_that_ends_is_told(clock, capsys):
    with Bars(command="x") as bars:
        counted(bars, clock, "pass 1", 20_000, 36_000.0)
    said = capsys.readouterr().err.splitlines()
    at = [float(re.search(r"after (\d+) s", x).group(1)) for x in said]
    gaps = [b - a for a, b in pairwise(at)]
    assert len(said) < 80
    assert max(gaps) < 650
    assert gaps[0] < 20
    assert gaps[-2] > 550
    assert "until 2026-03-02 09:00" in said[0]


def test_short_work_says_nothing(clock, capsys):
    with Bars(command="x") as bars:
        counted(bars, clock, "scores", 50, 9.0)
    assert capsys.readouterr().err == ""


def test_before_the_first_rate_the_plan_predicts_the_end(clock, capsys):
    plan = {"pass 1": 100.0, "after pass 1": 60.0}
    with Bars(command="x", forecast=lambda plans, task: plan) as bars:
        bars.planned(None, None)
        clock.now = 12.0
        bars("pass 1", 1, 10)
        clock.now = 40.0
        bars("pass 1", 2, 10)
        clock.now = 90.0
        bars("pass 1", 10, 10)
        bars.ended("pass 1")
        clock.now = 140.0
        bars._show(bars.stages.present, clock.now)
        clock.now = 155.0
        bars.ended("after pass 1")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "x, pass 1: 1 of 10 after 12 s, about 88 s left by the plan, until 23:01:40; "
        "in all about 148 s left, until 23:02:40",
        "x, pass 1: 2 of 10 after 40 s, about 224 s left, until 23:04:24; "
        "in all about 284 s left, until 23:05:24",
        "x, pass 1: 10 of 10 after 90 s; in all about 60 s left, until 23:02:30",
        "x, after pass 1: 50 s, about 10 s left by the plan, until 23:02:30",
        "x, after pass 1: done after 65 s",
    ]


def test_a_stage_beyond_its_plan_says_so_and_no_end(clock, capsys):
    with Bars(command="x", forecast=lambda *_: {"after pass 1": 20.0, "results": 5.0}) as bars:
        bars.planned(None, None)
        clock.now = 40.0
        bars._show(bars.stages.present, clock.now)
    (said, *_) = capsys.readouterr().err.splitlines()
    assert said == "x, after pass 1: 40 s, longer than the 20 s of the plan"


def test_what_follows_from_a_pass_is_counted_by_blocks(capsys):
    told = []
    task = small(network((3, 4, 2)), "cross_entropy")
    cv.fit("kfac", task, progress=lambda *now: told.append(now))
    assert [x for x in told if x[0] == "after pass 1"] == [
        ("after pass 1", 1, 2),
        ("after pass 1", 2, 2),
    ]


def test_what_an_earlier_run_has_done_is_not_this_ones_rate(clock, capsys):
    with Bars(command="x") as bars:
        clock.now = 1.0
        bars("pass 1", 900, 1000)
        clock.now = 11.0
        bars("pass 1", 910, 1000)
    assert "about 90 s left" in capsys.readouterr().err


def test_a_stage_that_comes_again_has_its_own_time(clock, capsys):
    with Bars(command="x") as bars:
        counted(bars, clock, "pass 1", 10, 20.0)
        counted(bars, clock, "pass 1", 10, 40.0, start=20.0)
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "x, pass 1: 10 of 10 after 40 s"


def test_iterations_say_how_they_go_and_no_end(clock, capsys):
    with Bars() as bars:
        bars("cg: residual 1.0e+00", 0, 50)
        clock.now = 20.0
        bars("cg: residual 3.0e-04", 7, 50)
    assert capsys.readouterr().err == "cg: 7 of 50 after 20 s (residual 3.0e-04)\n"


def test_a_stage_that_reports_nothing_is_looked_at(monkeypatch, capsys):
    monkeypatch.setattr(display, "BEAT", 0.01)
    monkeypatch.setattr(lines, "FIRST", 0.02)
    with Bars(command="x", forecast=lambda plans, task: {"after pass 1": 9.0}) as bars:
        bars.planned(None, None)
        time.sleep(0.2)
    assert re.search(r"x, after pass 1: 0 s, about 9 s left by the plan", capsys.readouterr().err)


def failing(clock, store):
    with Bars(command="x", store=store) as bars:
        counted(bars, clock, "pass 1", 10, 20.0)
        raise ValueError("bad")


def test_one_rank_shows_and_each_has_a_log(clock, capsys, monkeypatch, tmp_path):
    for rank in (0, 1):
        clock.now = 0.0
        monkeypatch.setattr(display, "place", lambda rank=rank: (rank, 2))
        with pytest.raises(ValueError, match="bad"):
            failing(clock, tmp_path)
    assert capsys.readouterr().err.count("rank 0 of 2, pass 1") == 2
    for rank in (0, 1):
        text = (tmp_path / "log" / f"rank-{rank}.log").read_text()
        assert f"x, rank {rank} of 2, pass 1: 5 of 10 after 10 s" in text
        assert text.splitlines()[-1].endswith(f"x, rank {rank} of 2: ValueError: bad, after 20 s")


def test_what_may_be_given(capsys, tmp_path):
    told = []
    for given in (lambda *x: told.append(x), display.Bars(quiet=True)):
        with shown(given, "x") as progress:
            assert progress is given
    for given in (False, None):
        with shown(given, "x") as progress:
            assert progress is None
    with shown(lambda *x: told.append(x), "x", store=tmp_path) as progress:
        progress("a", 1, 2)
    assert told == [("a", 1, 2)]
    assert (tmp_path / "log" / "rank-0.log").exists()
    with pytest.raises(cv.SpecError, match=r"E0563.*`progress` is a `str`"), shown("no", "x"):
        pass


WORK = {
    "evaluate": lambda own, how: cv.evaluate("ekfac", own, **how),
    "fit": lambda own, how: cv.fit("ekfac", own, **how),
    "influence": lambda own, how: cv.influence(cv.fit("kfac", own, progress=False), own, **how),
    "self_influence": lambda own, how: cv.self_influence(
        cv.fit("kfac", own, progress=False), own, **how
    ),
    "score_request": lambda own, how: cv.score_request("kfac", own).run(**how),
}


@pytest.mark.parametrize("name", WORK)
def test_python_shows_progress_by_itself_unless_told_otherwise(name, monkeypatch, capsys):
    monkeypatch.setattr(lines, "FIRST", 0.0)
    monkeypatch.setattr(lines, "GROWTH", 0.0)
    own = small(network([3, 4, 3]), "cross_entropy", n=3000)
    WORK[name](own, {})
    assert f"cv.{name}, " in capsys.readouterr().err
    for given in (False, None):
        WORK[name](own, {"progress": given})
        assert capsys.readouterr().err == ""
    told = []
    WORK[name](own, {"progress": lambda *x: told.append(x)})
    assert capsys.readouterr().err == ""
    assert told
