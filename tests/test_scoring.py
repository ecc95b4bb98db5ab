"""Scores asked for in Python: words that mean nothing, and what would be ignored, are refused before any work."""

from __future__ import annotations

import pytest

import curvlang as cv
from tests.small import network, task

REFUSED = {
    "another precision": ({"products": "float16"}, "E0594", "`float16`"),
    "products of no name": ({"products": "nope"}, "E0594", "`bfloat16`"),
    "more than a share": ({"compress": 1.5}, "E0594", "between 0 and 1"),
    "a share as text": ({"compress": "some"}, "E0563", "`compress`"),
    "groups of no name": ({"group": "nope"}, "E0591", "`label` or `all`"),
    "reduced to nothing": ({"group": "all", "reduce": "max"}, "E0591", "`sum` or `mean`"),
    "reduced without groups": ({"reduce": "mean"}, "E0591", "add `group`"),
    "own by label": ({"own": True, "group": "label"}, "E0595", "leave `group` out"),
    "own by layer": ({"own": True, "per_layer": True}, "E0595", "`per_layer`"),
    "own by position": ({"own": True, "per_position": True}, "E0595", "`per_position`"),
    "own, compressed": ({"own": True, "compress": 0.1}, "E0595", "`compress`"),
    "own, of margins": ({"own": True, "metric": "margin"}, "E0595", "`metric`"),
    "own in low precision": ({"own": True, "products": "bfloat16"}, "E0595", "`products`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_ignored_is_refused(name):
    options, code, word = REFUSED[name]
    with pytest.raises(cv.SpecError) as caught:
        cv.Scoring(**options)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert word in str(caught.value)


def test_what_means_something_is_taken():
    small = task(network([3, 4, 3]), "cross_entropy")
    for scoring in (
        cv.Scoring(group="all", reduce="mean"),
        cv.Scoring(group="label", products="bfloat16"),
        cv.Scoring(own=True, damping=0.1),
    ):
        report = cv.score_request("ekfac", small, scoring).run()
        assert tuple(report.axes) == scoring.axes
