"""The suite runs: small sizes, results that agree, no time asserted."""

from __future__ import annotations

import json

from tests.bench.__main__ import main
from tests.bench.contest import Standing
from tests.bench.table import warnings_of
from tests.bench.workloads import WORKLOADS, chosen


def test_the_cheapest_workload_runs_and_agrees(tmp_path, capsys):
    file = tmp_path / "found.json"
    assert main(["--quick", "--workload", "g", "--against", "loop", "--json", str(file)]) == 0
    (found,) = json.loads(file.read_text())["workloads"]
    names = {c["name"]: c for c in found["contestants"]}
    assert set(names) == {"ours", "loop"}
    assert all(c["agrees"] and not c["failure"] for c in names.values())
    assert names["loop"]["differs"] is not None
    assert "2 resamples" in capsys.readouterr().out


def test_results_that_differ_give_no_ratio_and_say_so():
    other = Standing("other", turns=[{"fit": 1.0}], differs=0.2)
    assert not other.agrees
    assert warnings_of([other]) == ["other differs by 0.2 (more than 0.0001): no ratio"]


def test_a_failure_is_shown_with_its_reason():
    (said,) = warnings_of([Standing("other", failure="ValueError: no")])
    assert said == "other failed:\nValueError: no"


def test_letters_choose_their_cases_and_small_sizes_are_not_repeated():
    assert [w.letter for w in chosen("ad", quick=False)] == ["a", "a", "d", "d"]
    assert [w.letter for w in chosen("ad", quick=True)] == ["a", "d", "d"]
    assert {w.letter for w in WORKLOADS} == set("abcdefghij")
