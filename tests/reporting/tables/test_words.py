"""Notes below the tables: a missing number has its reason, and nothing is missed that a row cannot have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curvlang.evaluation.result import Point, Step
from curvlang.reporting.tables.words import finding, header, notes
from tests.reporting.example import digits, interval


def with_baseline(lds):
    whole = digits()
    points = tuple(Point(x, lds=lds) for x in whole.sweep)
    row = Step("gradient_cosine", "gradient_cosine", "baseline", {}, 0, 0, None, None, points, 0, 1)
    return replace(whole, steps=(*whole.steps, row))


def test_a_baseline_misses_no_errors_and_no_shares():
    assert notes(with_baseline(interval(0.3))) == notes(digits())


def test_a_baseline_without_its_lds_says_so():
    (more,) = set(notes(with_baseline(None))) - set(notes(digits()))
    assert more == "`gradient_cosine`: LDS not computed, and the evaluation gave no reason"


@pytest.mark.parametrize("name", ["forward", "forward_share"])
def test_a_curvature_without_a_number_says_so(name):
    whole = digits()
    last = replace(whole.steps[-1], **{name: None})
    (more,) = set(notes(replace(whole, steps=(*whole.steps[:-1], last)))) - set(notes(whole))
    assert "forward" in more


def test_the_finding_ends_at_the_last_curvature():
    assert finding(with_baseline(interval(0.3))) == finding(digits())


def test_one_query_is_told_where_intervals_are():
    whole = digits()
    one = replace(whole, protocol=replace(whole.protocol, queries=1))
    (more,) = set(notes(one)) - set(notes(whole))
    assert "over subsets alone" in more
    assert ", 1 query, " in dict(header(one))["LDS"]
