"""Laws about scores: what ships holds on drawn tasks, and a law that is wrong has a counterexample."""

from __future__ import annotations

import pytest

import curvlang.testing as ct
from curvlang.diagnostics.codes import Code
from curvlang.language import check_text, load, loads, shipped_scores

FEW = 6
"""Drawn tasks for each law; the laws are searched in full by hand."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in shipped_scores() if load(n).laws])
def test_the_laws_of_shipped_scores_hold(name):
    for verdict in ct.check_spec(load(name), examples=FEW):
        assert verdict.holds, verdict.law.text
        assert verdict.tried


def test_every_score_of_one_trained_model_has_a_law_and_a_twin():
    for name in ("influence", "gradient_cosine", "relatif", "trackstar", "self_influence"):
        kinds = {law.exists for law in load(name).laws}
        assert kinds == {True, False}, name


@pytest.mark.filterwarnings("ignore")
def test_a_law_that_is_wrong_has_a_counterexample():
    spec = loads("law relatif(kfac) equals gradient_cosine(kfac)")
    (verdict,) = ct.check_spec(spec, examples=FEW)
    assert not verdict.holds
    assert verdict.counterexample is not None


@pytest.mark.parametrize(
    ("law", "code"),
    [
        ("law relatiff(kfac) equals relatif(ekfac)", Code.E0741),
        ("law relatif(kfac) equals trace(kfac)", Code.E0743),
        ("law relatif(kfac) equals own_influence(kfac)", Code.E0743),
        ("law relatif(kfac) equals relatif(nothing)", Code.E0206),
        ("law tracin(kfac) equals tracin(ekfac)", Code.E0244),
        ("law relatif(kfac) equals relatif(ekfac) in each block", Code.E0743),
    ],
)
def test_what_a_law_about_scores_cannot_say_is_refused(law, code):
    assert {d.code for d in check_text(law)} == {code}
