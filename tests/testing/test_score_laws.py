"""Laws about scores: what ships holds on drawn tasks, and a law that is wrong has a counterexample."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import curvlang.testing as ct
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language import check_text, load, loads, shipped_scores
from curvlang.language.checking.uses import task_in
from curvlang.testing import build_task, measure
from curvlang.testing.reading import autodiff

FEW = 4
"""Drawn tasks for each law; the laws are searched in full by hand."""
PLAIN = """
task plain {
  data  random(examples = 3, inputs = 2, outputs = 2)
  model mlp(hidden = [2], activation = tanh)
  loss  cross_entropy
  train sgd(epochs = 0)
}
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in shipped_scores() if load(n).laws])
def test_the_laws_of_shipped_scores_hold(name):
    for verdict in ct.check_spec(load(name), examples=FEW):
        assert verdict.holds, verdict.law.text
        assert verdict.tried


def test_every_score_has_a_law_and_a_twin():
    for name in set(shipped_scores()) - {"source"}:
        kinds = {law.exists for law in load(name).laws}
        assert kinds == {True, False}, name


NEW = """
score along {
  needs u[e,h,q,p], v[e,h,n,p], rate[h], second[e,h,p]
  z[e,h,n,p] = solve(v)
  yield s[q,n] = sum[h] rate[h] * (mean[e] sum[p] u[e,h,q,p] * z[e,h,n,p] / sqrt(second[e,h,p] + 0.1))
}
"""


@pytest.mark.filterwarnings("ignore")
def test_a_score_of_checkpoints_models_and_moments_is_as_written():
    (verdict,) = ct.check_spec(loads(NEW), examples=FEW)
    assert verdict.law.text == "along: as_written"
    assert verdict.holds
    assert verdict.tried == FEW
    assert not verdict.undetermined


@pytest.mark.filterwarnings("ignore")
def test_a_score_with_other_rates_is_not_as_written(monkeypatch):
    plain = measure.formula_scores

    def other(program, points, loss, request):
        return plain(program, replace(points, rates=points.rates * 1.001), loss, request)

    monkeypatch.setattr(measure, "formula_scores", other)
    (verdict,) = ct.check_spec(loads(NEW), examples=FEW)
    assert not verdict.holds
    counterexample = verdict.counterexample.task
    assert "checkpoints every(epochs = 1" in counterexample
    assert "models  trained(count = 2)" in counterexample
    # The counterexample is a task that a spec may hold: the law fails on it again.
    again = ct.check_spec(loads(NEW), task=task_in(loads(NEW + counterexample), "counterexample"))
    assert not again[0].holds


@pytest.mark.filterwarnings("ignore")
def test_a_task_without_checkpoints_is_refused():
    spec = loads("law tracin(identity) equals tracin(kfac)" + PLAIN)
    with pytest.raises(SpecError) as refused:
        ct.check_spec(spec, task=task_in(spec, "plain"))
    assert {d.code for d in refused.value.diagnostics} == {Code.E0428}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", ["cg(ggn, tolerance = 1e-13)", "lissa(ggn, depth = 30)"])
def test_the_entries_of_a_solver_are_those_of_its_equation(solver):
    """(C + 0.1 I) X = I by a plain solve for cg; by the recursion as a plain loop for lissa."""
    spec = loads(f"law {solver} equals ggn" + PLAIN)
    (law,) = spec.laws
    task = build_task(task_in(spec, "plain"))
    found = measure.solved_entries(law.quantities[0].curvature, law.quantities[0].solver, task)
    matrix = autodiff(load("ggn").curvatures["ggn"], task)
    shifted = matrix + 0.1 * torch.eye(len(matrix), dtype=torch.float64)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    wanted = torch.linalg.solve(shifted, eye)
    if solver.startswith("lissa"):
        h = eye
        for _ in range(30):
            h = eye + h - shifted @ h / 10
        wanted = h / 10
    assert (found - wanted).norm() < 1e-10 * wanted.norm()


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
        ("law source(kfac) equals source(ekfac)", Code.E0244),
        ("law relatif(kfac, power = 2) equals relatif(ekfac)", Code.E0703),
        ("law trace(kfac, power = 2) equals trace(ekfac)", Code.E0703),
        ("law trak(kfac, dimension = no) equals trak(ekfac)", Code.E0705),
        ("law trak(kfac) equals trak(ekfac) when loss is mse", Code.E0744),
        ("law lissa(kfac, scal = 2) equals tikhonov(kfac, damping = 0.1)", Code.E0703),
        ("law cg(kfac, preconditioner = nothing) equals cg(kfac)", Code.E0206),
        ("law cgg(kfac) equals kfac", Code.E0741),
        ("law relatif(kfac) equals relatif(ekfac) in each block", Code.E0743),
    ],
)
def test_what_a_law_about_scores_cannot_say_is_refused(law, code):
    assert {d.code for d in check_text(law)} == {code}
