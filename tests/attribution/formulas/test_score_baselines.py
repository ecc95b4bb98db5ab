"""Scores as baselines of studies and evaluations: with a curvature where they solve with one."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.evaluation.experiment import experiment
from curvlang.evaluation.preflight import check
from curvlang.evaluation.question import Run, question_of_study
from curvlang.language import check_text, loads
from curvlang.storage.cache import Cache
from curvlang.testing.score_comparison import gradients_one_by_one
from tests.attribution.formulas.formulas import assert_close
from tests.models.support import assert_refused

STUDY = """score scaled(by: float = 1) {{
  needs u[q,p], v[n,p]
  yield s[q,n] = by * (sum[p] u[q,p] * v[n,p])
}}
task short {{
  data        random(examples = 40, inputs = 4, outputs = 3)
  model       mlp(hidden = [3])
  loss        cross_entropy
  train       sgd(epochs = 2, batch = 8)
  checkpoints segments(count = 2)
  models      trained(count = 2)
}}
study methods {{
  task short
  curvatures kfac
  baselines {}
  inverses tikhonov, absolute(damping = 0.5)
  damping [0.1, 1]
}}"""


def columns(lines, tmp_path, metric="loss"):
    """The task, and scores of the baselines `[inverse][baseline][setting]`."""
    study = loads(STUDY.format(lines)).studies["methods"]
    run = Run(protocol=cv.LDS(subsets=3, retrains=1, queries=3), cache=Cache(tmp_path))
    question = question_of_study(study, study.cells[0].task, metric=metric)
    task = cv.task(study.cells[0].task, train=True)
    found = experiment(question, task, run, check(question, task, run))
    scores = [[[x.scores for x in row] for row in c.cells[1:]] for c in found.columns]
    return task.to(dtype=torch.float64).queries(slice(3)), scores


def test_a_baseline_may_be_a_score_of_the_file(tmp_path):
    task, ((cosine, scaled, trak), again) = columns(
        "gradient_cosine, scaled(by = 3), trak(dimension = 8)", tmp_path
    )
    u = gradients_one_by_one(task, "query")
    v = gradients_one_by_one(task, "train")
    wanted = u @ v.T / u.norm(dim=1)[:, None] / v.norm(dim=1)
    assert [len(cosine), len(again[0])] == [2, 1]
    assert_close(cosine[0], wanted)
    assert_close(cosine[1], wanted)
    assert_close(scaled[1], 3 * u @ v.T)
    assert trak[0].shape == (3, task.N)


def test_a_baseline_may_solve_with_a_curvature(tmp_path):
    """At every setting of the study's inverses, or with an inverse of its own; fitted once more where the study has no row of it."""
    lines = (
        "relatif of kfac, relatif of diagonal, mean_influence of ekfac, source of ekfac, "
        "relatif of kfac with pseudo"
    )
    task, (swept, stated) = columns(lines, tmp_path)

    def wanted(curvature, score, **given):
        op = cv.fit(curvature, task, progress=False)
        return cv.influence(op, task, score=score, progress=False, **given)

    for k, damping in enumerate((0.1, 1.0)):
        assert_close(swept[0][k], wanted("kfac", "relatif", damping=damping))
        assert_close(swept[1][k], wanted("diagonal", "relatif", damping=damping))
        assert_close(swept[2][k], wanted("ekfac", "mean_influence", damping=damping))
        assert_close(swept[3][k], wanted("ekfac", "source"))
        assert_close(swept[4][k], wanted("kfac", "relatif", inverse="pseudo"))
    assert (swept[0][0] - swept[0][1]).abs().max() > 1e-3 * swept[0][0].abs().max()
    absolute = "absolute(damping = 0.5)"
    assert_close(stated[1][0], wanted("diagonal", "relatif", inverse=absolute))
    assert_close(stated[4][0], swept[4][0])


def test_a_score_is_of_the_metric_of_the_queries(tmp_path):
    task, ((found, *_), _) = columns("gradient_cosine", tmp_path, metric="margin")
    op = cv.fit("identity", task, progress=False)
    wanted = cv.influence(op, task, score="gradient_cosine", metric="margin", progress=False)
    assert_close(found[0], wanted)


def test_an_evaluation_judges_a_score_beside_its_curvature():
    task = cv.task("digits(hidden = [3], epochs = 1)", train=True)
    report = cv.evaluate(
        "identity",
        task,
        protocol=cv.LDS(subsets=3, retrains=1, queries=3),
        baselines=["trak(dimension = 8)", "relatif of kfac"],
        progress=False,
    )
    solved = report.steps[-1]
    assert solved.label == "relatif of kfac"
    found = [x.lds.estimate for x in solved.points]
    assert len(set(found)) > 1
    assert solved.best == found.index(max(found))
    wrong = {"protocol": cv.LDS(subsets=3, retrains=1), "baselines": ["tracin"], "progress": False}
    assert_refused(Code.E0428, lambda: cv.evaluate("identity", task, **wrong))


@pytest.mark.parametrize(
    ("name", "code"),
    [("relatif", Code.E0245), ("own_influence", Code.E0245), ("relatiff", Code.E0920)],
)
def test_a_score_that_is_not_a_baseline(name, code):
    assert [d.code for d in check_text(STUDY.format(name))] == [code]
