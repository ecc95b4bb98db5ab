"""Scores asked for in Python: words that mean nothing, and what would be ignored, are refused before any work."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution import scorer
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


@pytest.mark.parametrize(
    ("spec", "options", "code"),
    [
        ("ggn", {"per_layer": True}, "E0710"),
        ("hessian", {"per_layer": True, "per_position": True}, "E0710"),
        ("ggn", {"products": "bfloat16"}, "E0594"),
        ("ggn", {"compress": 1e-3}, "E0594"),
        ("ekfac", {"compress": 1e-3, "per_position": True}, "E0594"),
    ],
)
def test_what_a_structure_has_no_scores_for_is_refused_before_the_training(
    spec, options, code, monkeypatch
):
    """The structure of C⁻¹ follows from the plan; the same is refused after a fit."""
    small = task(network([3, 4, 3]), "cross_entropy", positions=2, reduce="sum")
    monkeypatch.setattr("curvlang.scoring.fit", lambda *_, **__: pytest.fail("it is fitted"))
    scoring = cv.Scoring(damping=0.1, **options)
    with pytest.raises(cv.SpecError, match=code):
        cv.score_request(spec, small, scoring)
    words = options if "products" not in options else {"products": torch.bfloat16}
    with pytest.raises(cv.SpecError, match=code):
        cv.influence(cv.fit(spec, small), small, damping=0.1, **words)


@pytest.mark.parametrize("spec", ["ekfac", "diagonal", "identity", "block_ggn", "kfac"])
def test_what_has_blocks_is_scored_by_layer(spec):
    small = task(network([3, 4, 3]), "cross_entropy")
    options = {"per_layer": True, "compress": 1e-3}
    report = cv.score_request(spec, small, cv.Scoring(damping=0.1, **options)).run()
    assert len(report.arrays) >= 2


@pytest.mark.parametrize("spec", ["ekfac", "diagonal", "identity", "mine"])
@pytest.mark.parametrize("per_position", [False, True])
def test_the_memory_of_scores_by_layer_is_counted(spec, per_position, monkeypatch):
    """What is required before the work holds what comes back, with blocks and without."""
    text = "curvature mine = kfac + diagonal"
    small = task(network([3, 4, 3]), "cross_entropy", positions=2)
    counted = []
    monkeypatch.setattr(scorer, "require", lambda size, *_: counted.append(size))
    scoring = cv.Scoring(damping=0.1, per_layer=True, per_position=per_position)
    request = cv.score_request(cv.loads(text) if spec == "mine" else spec, small, scoring)
    report = request.run()
    held = sum(x.nbytes for x in report.arrays.values())
    assert len(counted) == 2
    assert all(size >= held for size in counted)


@pytest.mark.parametrize("spec", ["identity", "diagonal"])
def test_scores_by_layer_and_position_add_up(spec):
    small = task(network([3, 4, 3]), "cross_entropy", positions=2)
    op = cv.fit(spec, small)
    by_layer = cv.influence(op, small, damping=0.1, per_layer=True, per_position=True)
    total = sum(by_layer.values()).sum(-1)
    assert torch.allclose(total, cv.influence(op, small, damping=0.1), atol=1e-12)
    assert set(by_layer) == set(cv.influence(op, small, damping=0.1, per_layer=True))
