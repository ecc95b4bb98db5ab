"""Functions of the spectrum along the training: SOURCE as a formula, against matrix exponentials and by hand."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution.formulas.curvatures import fits_elsewhere
from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    formula_of,
    formula_points,
    formula_scores,
    program_of,
)
from curvlang.attribution.formulas.points import Points
from curvlang.attribution.formulas.surroundings import surroundings
from curvlang.attribution.streams.request import Request
from curvlang.diagnostics.codes import Code
from curvlang.language import check_text, curvature_named
from curvlang.models.origin import Origin
from curvlang.runtime.fit import fit_chains
from curvlang.training.baseline import train_baseline
from tests.attribution.formulas.formulas import assert_close, formula
from tests.attribution.test_source import by_hand, network, plain_training, scores, slopes_at
from tests.models.support import assert_refused
from tests.small import gradients


def in_pieces(task, curvature, cuts):
    """SOURCE with dense curvatures of the examples at all models of a segment, and eigendecompositions."""
    visited, lrs = plain_training(task)
    ask = slopes_at(task, visited[-1], task.query)[0]
    (segments, models), steps = cuts, len(lrs)
    total, count = 0, segments * models
    middle = [(k * steps // count + (k + 1) * steps // count) // 2 for k in range(count)]
    for h in reversed(range(segments)):
        points = [moved(task, visited[k]) for k in middle[h * models : (h + 1) * models]]
        ((*_, stage),) = fit_chains([curvature_named(curvature)], points, last=True)
        s, Q = torch.linalg.eigh(stage.operator.dense())
        time = sum(lrs[h * steps // segments : (h + 1) * steps // segments]) / 0.4
        g = torch.stack([gradients(x, "train") for x in points]).mean(0)
        total += ask @ Q @ torch.diag(-torch.expm1(-time * s) / s) @ Q.T @ g.T
        ask = ask @ Q @ torch.diag(torch.exp(-time * s)) @ Q.T
    return total


def moved(task, theta):
    """The task at other parameters."""
    model = task.build(0)
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    return task.with_model(model)


def segmented(trajectory, **recipe):
    """The trained network, with checkpoints."""
    found = train_baseline(network(**recipe), 0)
    return found.replaced(trajectory=trajectory, origin=Origin("trained here", seed=0))


@pytest.mark.parametrize("curvature", ["ggn", "ekfac", "kfac", "diagonal"])
@pytest.mark.parametrize("cuts", [(3, 2), (1, 1), (4, 3)])
def test_the_shipped_formula_is_the_derivative_through_segments(curvature, cuts):
    task = segmented(cv.Trajectory(segments=cuts[0], per_segment=cuts[1]))
    op = cv.fit(curvature, task, progress=False)
    found = cv.influence(op, task, score="source", progress=False)
    assert_close(found, in_pieces(network(), curvature, cuts))
    if (curvature, cuts) == ("ggn", (3, 2)):
        mean_of, bounds = [(1, 3), (6, 8), (11, 13)], (0, 5, 10, 15)
        assert_close(found, by_hand(task, mean_of, bounds))
        wrong = by_hand(task, mean_of, bounds, swap=True)
        assert (found - wrong).abs().max() > 1e-4 * wrong.abs().max()


def test_a_function_on_either_side_and_rows_of_any_kind_give_the_same():
    """f(C) is symmetric: on rows of training examples it is what it is on those of the queries."""
    task = segmented(cv.Trajectory(segments=3))
    op = cv.fit("ekfac", task, progress=False)
    needs = "u[q,p], v[h,n,p], time[h]"
    sides = {
        "queries": "x[h,q,p] = apply(accumulated(time[h]), w)\nyield s[q,n] = sum[h,p] x[h,q,p] * v[h,n,p]",
        "examples": "z[h,n,p] = apply(accumulated(time[h]), v)\nyield s[q,n] = sum[h,p] w[h,q,p] * z[h,n,p]",
        "rows": "z[h,n,p] = apply(accumulated(time[h]), v)\n"
        "yield s[q,n] = sum[h,p] w[h,q,p] * (z[h,n,p] + 0 * abs(z[h,n,p]))",
    }
    carried = "w[h,q,p] = carry(decayed(time[h]), u)\n"
    wanted = scores(task, "ekfac", (3, 1))
    for body in sides.values():
        found = formula(carried + body, needs)
        assert_close(cv.influence(op, task, score=found, progress=False), wanted)


def test_a_function_at_the_evaluated_model_needs_no_checkpoints():
    task = segmented(None)
    op = cv.fit("ggn", task, progress=False)
    s, Q = torch.linalg.eigh(op.dense())
    u, v = gradients(task, "query"), gradients(task, "train")
    f = Q @ torch.diag(1 / (s.abs() + 0.3).sqrt()) @ Q.T
    spec = cv.loads(
        "inverse rooted(shift = 0.1): s -> 1 / sqrt(abs(s) + shift)\n"
        "score mine(by: float = 0.1) { needs u[q,p], v[n,p] z[n,p] = apply(rooted(3 * by), v)"
        " yield s[q,n] = sum[p] u[q,p] * z[n,p] }\ncurvature c = ggn\nevaluate mine of c"
    )
    found = cv.influence(op, task, score=spec.scores["mine"], progress=False)
    assert_close(found, u @ f @ v.T)
    own = cv.fit(spec, task, progress=False)
    assert_close(cv.influence(own, task, progress=False), u @ f @ v.T)
    report = cv.evaluate(spec, task, damping=0.1, progress=False)
    assert_close(torch.from_numpy(report.run.scores), u @ f @ v.T)


def test_a_saved_operator_knows_the_functions_of_its_score(tmp_path):
    task = segmented(None)
    spec = cv.loads(
        "inverse rooted(shift = 0.1): s -> 1 / sqrt(abs(s) + shift)\n"
        "score mine { needs u[q,p], v[n,p] z[n,p] = apply(rooted(), v)"
        " yield s[q,n] = sum[p] u[q,p] * z[n,p] }\ncurvature c = ggn\nevaluate mine of c"
    )
    op = cv.fit(spec, task, progress=False)
    op.save(tmp_path / "op.safetensors")
    read = cv.load_operator(tmp_path / "op.safetensors")
    wanted = cv.influence(op, task, progress=False)
    assert_close(cv.influence(read, task, progress=False), wanted)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"trajectory": None}, Code.E0428),
        ({"trajectory": cv.Trajectory(segments=4, per_segment=4)}, Code.E0428),
        (
            {"recipe": cv.Recipe(optimiser="adam", lr=0.01, batch=7, epochs=5, weight_decay=0.02)},
            Code.E0509,
        ),
    ],
)
def test_trainings_without_such_segments_are_refused(change, code):
    task = segmented(cv.Trajectory(segments=3)).replaced(**change)
    op = cv.fit("ggn", task, progress=False)
    assert_refused(code, lambda: cv.influence(op, task, score="source", progress=False))


SOLVED = {"h": [3, 3], "h,c": [1] * 6, "e,h": [3] * 4, "e,h,c": [1] * 12, "e": [1]}


@pytest.mark.parametrize(("indices", "fits"), SOLVED.items())
@pytest.mark.parametrize("step", ["solve(v)", "apply(decayed(1), v)"])
def test_fits_at_other_models_are_known_before_any(indices, fits, step):
    task = segmented(cv.Trajectory(segments=2, per_segment=3, models=2))
    text = f"z[{indices},n,p] = {step}\nyield s[q,n] = sum[{indices},p] u[q,p] * z[{indices},n,p]"
    program = program_of(formula(text, f"u[q,p], v[{indices},n,p]"))
    assert fits_elsewhere(program, task) == fits
    found = surroundings(formula(text, f"u[q,p], v[{indices},n,p]"), program, task).fitted_at
    assert [len(x) for x in found] == fits


def test_fits_at_other_models_are_explained_and_refused_before_anything_is_trained(monkeypatch):
    task = segmented(cv.Trajectory(segments=3, per_segment=2))
    shown = cv.explain("source", task)
    assert "3 more fits of the curvature, at other models: 6 × the passes below" in str(shown)
    assert shown.to_json()["score"]["refits"] == [2, 2, 2]
    assert "more fit" not in str(cv.explain("relatif", task))
    op = cv.fit("ggn", task, progress=False)
    monkeypatch.setattr("curvlang.attribution.formulas.formula_scores.surroundings", None)
    monkeypatch.setattr("curvlang.runtime.limits.memory.available", lambda _: 8 * op.memory())
    with pytest.raises(cv.MachineError, match="the curvature at 3 models needs"):
        cv.influence(op, task, score="source", progress=False)


def test_files_do_not_say_how_long_the_training_was():
    task = segmented(None)
    task = task.replaced(trajectory=cv.Trajectory(files=[task.model.state_dict()]))
    op = cv.fit("ggn", task, progress=False)
    assert_refused(Code.E0440, lambda: cv.influence(op, task, score="source", progress=False))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("z[n,p] = apply(v)", "E0246"),
        ("z[n,p] = apply(0.1, v)", "E0246"),
        ("z[n,p] = apply(nothing(1), v)", "E0712"),
        ("z[n,p] = apply(tikhonov(1, 2), v)", "E0247"),
        ("z[n,p] = apply(decayed(), v)", "E0247"),
        ("z[n,p] = apply(decayed(sum[p] v[n,p]), v)", "E0247"),
        ("z[h,n,p] = carry(decayed(1), w)", "E0246"),
        ("z[n,p] = carry(decayed(1), v)", "E0246"),
        ("z[h,n,p] = apply(decayed(1), v)", "E0305"),
    ],
)
def test_what_is_no_function_of_the_spectrum_is_refused(body, code):
    text = f"score mine {{ needs u[q,p], v[n,p], w[h,n,p] {body} yield s[q,n] = sum[p] u[q,p] * v[n,p] }}"
    text = text.replace(", w[h,n,p]", "").replace(", w)", ", u)") if "w)" not in body else text
    problems = check_text(text, "mine.cv")
    assert code in {x.code for x in problems}


SEEDS = """inverse accumulated(time): s -> (1 - exp(-time * s)) / s
inverse decayed(time): s -> exp(-time * s)
score over_seeds {
  needs u[e,q,p], v[e,h,c,n,p], time[h]
  w[e,h,q,p] = carry(decayed(time[h]), u)
  x[e,h,q,p] = apply(accumulated(time[h]), w)
  yield s[q,n] = mean[e,c] sum[h,p] x[e,h,q,p] * v[e,h,c,n,p]
}
curvature mine = ggn"""


def test_several_seeds_are_the_mean_of_what_each_has_alone():
    task = segmented(cv.Trajectory(segments=2, per_segment=2, models=2))
    spec = cv.loads(SEEDS)
    op, several = cv.fit(spec, task, progress=False), spec.scores["over_seeds"]
    around, alone = formula_points(several, op, task, InverseRequest()), formula_of(op, "source")
    parts = []
    for end, row in zip(around.models, around.checkpoints, strict=True):
        own = Points(end, [row], (), around.rates, times=around.times, functions=alone.functions)
        parts.append(formula_scores(program_of(alone), own, task.loss, Request()))
    assert (parts[0] - parts[1]).abs().max() > 0.01 * parts[0].abs().max()
    assert_close(cv.influence(op, task, score=several), sum(parts) / 2)
