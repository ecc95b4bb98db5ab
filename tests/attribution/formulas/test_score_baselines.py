"""Scores without a curvature are baselines of studies and evaluations."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution.curvature_free import Setting, baseline_scores
from curvlang.diagnostics.codes import Code
from curvlang.language import check_text, loads
from curvlang.testing.score_comparison import gradients_one_by_one
from tests.attribution.formulas.formulas import assert_close
from tests.models.support import assert_refused

STUDY = """score scaled(by: float = 1) {{
  needs u[q,p], v[n,p]
  yield s[q,n] = by * (sum[p] u[q,p] * v[n,p])
}}
study methods {{
  task digits
  curvatures ekfac
  baselines {}
}}"""


def short():
    text = "digits(hidden = [3], epochs = 1)"
    return cv.task(text, train=True)


def test_a_baseline_may_be_a_score_of_the_file():
    spec = loads(STUDY.format("gradient_cosine, scaled(by = 3), trak(dimension = 8)"))
    task = short()
    wide = task.to(dtype=torch.float64)
    few = wide.examples(slice(20)).queries(slice(4))
    given = Setting(task, few, 3, 0)
    u = gradients_one_by_one(few.queries(slice(3)), "query")
    v = gradients_one_by_one(few, "train")
    cosine, scaled, trak = spec.studies["methods"].baselines
    wanted = u @ v.T / u.norm(dim=1)[:, None] / v.norm(dim=1)
    assert_close(baseline_scores(cosine, given), wanted)
    assert_close(baseline_scores(scaled, given), 3 * u @ v.T)
    assert baseline_scores(trak, given).shape == (3, 20)


def test_an_evaluation_judges_a_score_beside_its_curvature():
    task = short()
    report = cv.evaluate(
        "identity",
        task,
        protocol=cv.LDS(subsets=3, retrains=1, queries=3),
        baselines=["trak(dimension = 8)"],
        progress=False,
    )
    assert "trak" in str(report)
    wrong = {"protocol": cv.LDS(subsets=3, retrains=1), "baselines": ["tracin"], "progress": False}
    assert_refused(Code.E0428, lambda: cv.evaluate("identity", task, **wrong))


@pytest.mark.parametrize(
    ("name", "code"),
    [("relatif", Code.E0245), ("own_influence", Code.E0245), ("relatiff", Code.E0920)],
)
def test_a_score_with_a_curvature_is_not_a_baseline(name, code):
    assert [d.code for d in check_text(STUDY.format(name))] == [code]
