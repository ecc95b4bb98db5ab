"""Scores of formulas are what their text says, with rows by autograd and C⁻¹ as a matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zarr
from torch import nn

import curvlang as cv
import curvlang.testing as ct
from curvlang.attribution.formulas import evaluation, formula_stream
from curvlang.attribution.formulas.formula_scores import program_of
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import Point, Points
from curvlang.attribution.streams import cut as cuts
from curvlang.attribution.streams.request import Request
from curvlang.diagnostics.codes import Code
from curvlang.language import loads, shipped_scores
from curvlang.testing.score_comparison import gradients_one_by_one, scores_as_written
from tests.attribution.formulas.formulas import assert_close, formula
from tests.models.support import assert_refused
from tests.processes import together
from tests.small import network
from tests.small import task as small

DAMPING = 0.07


def classes(n=11, bias=True):
    return small(network([3, 4, 3], bias=bias), "cross_entropy", n=n)


def convolution():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, groups=1), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3, bias=False)
    ).double()
    X, y = torch.randn(7, 1, 5, 5).double(), torch.randint(0, 3, (7,))
    return cv.Task(model.eval(), loss="cross_entropy", train=(X, y), query=(X[:3], y[:3]))


def tied():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3, bias=False)
            self.last = nn.Linear(3, 2)

        def forward(self, x):
            return self.last(torch.tanh(self.one(torch.tanh(self.one(x)))))

    torch.manual_seed(1)
    model = Model().double().eval()
    X, y = torch.randn(8, 3).double(), torch.randint(0, 2, (8,))
    return cv.Task(model, loss="cross_entropy", train=(X, y), query=(X[:2], y[:2]))


TASKS = {
    "dense": classes,
    "no bias": lambda: classes(bias=False),
    "positions": lambda: small(network([3, 4, 3]), "mse", n=11, positions=3),
    "one example": lambda: classes(n=1),
    "convolution": convolution,
    "tied": tied,
}

BODIES = {
    "influence": "z[n,p] = solve(v)\nyield s[q,n] = sum[p] u[q,p] * z[n,p]",
    "relatif": (
        "z[n,p] = solve(v)\nyield s[q,n] = (sum[p] u[q,p] * z[n,p]) / sqrt(sum[p] v[n,p] * z[n,p])"
    ),
    "theta": ("z[n,p] = solve(v)\nyield s[q,n] = (sum[p] u[q,p] * z[n,p]) / sqrt(sum[p] z[n,p]^2)"),
    "by the query": (
        "z[n,p] = solve(v)\nyield s[q,n] = (sum[p] u[q,p] * z[n,p]) / sqrt(sum[p] u[q,p]^2)"
    ),
    "unit rows": (
        "a[q,p] = u[q,p] / sqrt(sum[p] u[q,p]^2)\n"
        "b[n,p] = v[n,p] / sqrt(sum[p] v[n,p]^2)\n"
        "z[n,p] = solve(b)\n"
        "yield s[q,n] = sum[p] a[q,p] * z[n,p]"
    ),
    "leave one out": (
        "z[n,p] = solve(v)\n"
        "h[n] = (sum[p] v[n,p] * z[n,p]) / size[n]\n"
        "yield s[q,n] = (sum[p] u[q,p] * z[n,p]) / (1 + h[n])"
    ),
    "distance": "yield s[q,n] = -sum[p] (u[q,p] - v[n,p])^2",
    "two kinds": "yield s[q,n] = (sum[p] u[q,p]^2) - (sum[p] v[n,p]^2)",
    "standardised": (
        "x[q,n] = sum[p] u[q,p] * v[n,p]\n"
        "m[q] = mean[n] x[q,n]\n"
        "d[q] = mean[n] (x[q,n] - m[q])^2\n"
        "yield s[q,n] = (x[q,n] - m[q]) / sqrt(d[q] + 1e-3)"
    ),
    "centred": "m[p] = mean[n] v[n,p]\nyield s[q,n] = sum[p] u[q,p] * (v[n,p] - m[p])",
    "solved mean": (
        "m[p] = mean[n] v[n,p]\nz[p] = solve(m)\n"
        "yield s[q,n] = sum[p] u[q,p] * v[n,p] + (sum[p] u[q,p] * z[p])"
    ),
    "signs": "yield s[q,n] = sum[p] u[q,p] * v[n,p] / (abs(v[n,p]) + 0.1)",
    "solved signs": (
        "w[n,p] = v[n,p] / (abs(v[n,p]) + 0.1)\nz[n,p] = solve(w)\n"
        "yield s[q,n] = sum[p] u[q,p] * z[n,p]"
    ),
    "all queries": "yield s[n] = sum[q,p] u[q,p] * v[n,p]",
    "own": "z[n,p] = solve(v)\nyield s[n] = sum[p] v[n,p] * z[n,p]",
    "projected": (
        "space k = 5\n"
        "R[p,k] = random_normal[p,k](3)\n"
        "f[n,k] = sum[p] R[p,k] * v[n,p]\n"
        "g[q,k] = sum[p] R[p,k] * u[q,p]\n"
        "K[k,k'] = (sum[n] f[n,k] * f[n,k']) + 0.1 * identity[k,k']\n"
        "I[k,k'] = inv(K)\n"
        "yield s[q,n] = sum[k,k'] g[q,k] * I[k,k'] * f[n,k']"
    ),
    "queries meet": (
        "w[q,q'] = sum[p] u[q,p] * u[q',p]\n"
        "yield s[q,n] = sum[q'] w[q,q'] * (sum[p] u[q',p] * v[n,p])"
    ),
    "through the examples": (
        "w[q,n] = sum[p] u[q,p] * v[n,p]\n"
        "y[q,p] = sum[n] w[q,n] * v[n,p]\n"
        "yield s[q,n] = sum[p] y[q,p] * v[n,p]"
    ),
    "positive part": "yield s[q,n] = max(sum[p] u[q,p] * v[n,p], 0)",
    "sum of entries": "yield s[q,n] = (sum[p] u[q,p]) * (mean[p] v[n,p])",
    "again": (
        "v[n,p] = v[n,p] / (1 + sum[p] v[n,p]^2)\n"
        "a[n] = sum[p] v[n,p]^2\na[n] = 1 + a[n]^2\n"
        "yield s[q,n] = a[n] * (sum[p] u[q,p] * v[n,p])"
    ),
}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("body", ["relatif", "unit rows", "theta", "standardised", "centred"])
def test_scores_are_what_the_text_says_on_any_model(kind, body):
    given = TASKS[kind]()
    found = formula(BODIES[body])
    op = cv.fit("ekfac", given, progress=False)
    inverse = op.inverse(DAMPING)
    wanted = scores_as_written(found, inverse.dense(), given)
    damping = DAMPING if "solve" in BODIES[body] else None
    assert_close(cv.influence(op, given, score=found, damping=damping, progress=False), wanted)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("spec", ["ekfac", "ggn"])
def test_every_form_is_what_the_text_says_in_turns_and_chunks(body, spec):
    given = classes(n=11)
    found = formula(BODIES[body], "v[n,p]" if body == "own" else "u[q,p], v[n,p]")
    inverse = cv.fit(spec, given, progress=False).inverse(DAMPING)
    wanted = scores_as_written(found, inverse.dense(), given)
    program = program_of(found)
    points = Points(Point(given, inverse.operator))
    for turn, size in ((None, None), (2, 4)):
        stream = FormulaStream(program, points, given.loss, Request(), turn=turn, size=size)
        scores = torch.full(stream.shape, torch.nan, dtype=torch.float64)
        for batch in stream.batches():
            scores[batch.place] = batch.scores[""]
        assert_close(scores, wanted)


def test_gradients_over_all_parameters_are_formed_only_where_entries_are_needed():
    plain = ("influence", "relatif", "theta", "unit rows", "distance", "standardised", "own")
    rows = ("centred", "signs", "solved signs", "projected", "through the examples")
    for body in plain:
        needs = "v[n,p]" if body == "own" else "u[q,p], v[n,p]"
        assert program_of(formula(BODIES[body], needs)).by_products, body
    for body in rows:
        assert not program_of(formula(BODIES[body])).by_products, body


def test_products_that_are_the_same_are_computed_once():
    twice = formula(
        "z[n,p] = solve(v)\nx[q,p] = solve(u)\n"
        "yield s[q,n] = (sum[p] u[q,p] * z[n,p]) + (sum[p'] x[q,p'] * v[n,p'])"
    )
    assert len(program_of(twice).products) == 1


def test_a_score_by_name_of_the_spec_or_of_what_ships():
    given = classes()
    spec = loads(
        "score halved(by: float = 2) {\n  needs u[q,p], v[n,p]\n"
        "  yield s[q,n] = (sum[p] u[q,p] * v[n,p]) / by\n}\n"
        "curvature mine = ekfac\nevaluate relatif of mine with tikhonov(damping = 0.07)"
    )
    op = cv.fit(spec, given, progress=False)
    dense = op.inverse(DAMPING).dense()
    u, v = gradients_one_by_one(given, "query"), gradients_one_by_one(given, "train")
    relatif = u @ dense @ v.T / ((v @ dense) * v).sum(1).sqrt()
    assert_close(cv.influence(op, given, progress=False), relatif)
    assert_close(cv.influence(op, given, score="relatif", progress=False), relatif)
    plain = cv.influence(op, given, score="influence", progress=False)
    assert_close(plain, u @ dense @ v.T)
    cosine = u @ v.T / u.norm(dim=1)[:, None] / v.norm(dim=1)
    assert_close(cv.influence(op, given, score="gradient_cosine", progress=False), cosine)
    assert_close(cv.influence(op, given, score="halved", progress=False), u @ v.T / 2)
    assert_close(cv.influence(op, given, score="halved(by = 4)", progress=False), u @ v.T / 4)
    own = cv.influence(op, given, score="own_influence", progress=False)
    assert_close(own, ((v @ dense) * v).sum(1))
    star = u @ dense @ v.T / ((u @ dense) * u).sum(1).sqrt()[:, None] / own.sqrt()
    assert_close(cv.influence(op, given, score="trackstar", progress=False), star)


def test_a_zero_gradient_scores_zero_where_norms_divide():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0]]))
    X = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()
    y = torch.tensor([[1.0], [0.0]]).double()
    given = cv.Task(model, loss="mse", train=(X, y), query=(X, y))
    op = cv.fit("identity", given, progress=False)
    found = cv.influence(op, given, score="gradient_cosine", progress=False)
    assert_close(found, torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double())


def test_groups_are_queries_of_added_gradients():
    given = classes()
    op = cv.fit("ekfac", given, progress=False)
    dense = op.inverse(DAMPING).dense()
    u = gradients_one_by_one(given, "query")
    for reduce, weights in (("sum", [1.0, 1.0, 1.0]), ("mean", [0.5, 0.5, 1.0])):
        groups = torch.tensor([[weights[0], weights[1], 0], [0, 0, weights[2]]]).double()
        for name in ("by the query", "signs"):
            found = formula(BODIES[name])
            wanted = scores_as_written(found, dense, given, groups @ u)
            damping = DAMPING if name == "by the query" else None
            options = {"score": found, "damping": damping, "groups": [[0, 1], [2]]}
            scores = cv.influence(op, given, reduce=reduce, progress=False, **options)
            assert_close(scores, wanted)


def test_the_metric_of_the_queries_is_that_of_the_formula():
    given = classes()
    op = cv.fit("ekfac", given, progress=False)
    plain = cv.influence(op, given, damping=DAMPING, metric="margin", progress=False)
    found = cv.influence(
        op, given, damping=DAMPING, metric="margin", score="relatif", progress=False
    )
    own = cv.self_influence(op, given, damping=DAMPING, progress=False)
    assert_close(found, plain / own.sqrt())


def test_the_extremes_of_a_formula_are_those_of_its_scores():
    given = classes()
    op = cv.fit("ekfac", given, progress=False)
    scores = cv.influence(op, given, score="relatif", damping=DAMPING, progress=False)
    found = cv.top_examples(op, given, 2, score="relatif", damping=DAMPING, progress=False)
    best = scores.argmax(1).tolist()
    assert [one.helpful[0].index for one in found] == best


@pytest.mark.parametrize("suffix", ["npy", "zarr"])
def test_scores_go_to_files_as_they_come(tmp_path, suffix):
    given = classes()
    path = tmp_path / f"scores.{suffix}"
    for name, axes in (("relatif", ("query", "train")), ("own_influence", ("train",))):
        scoring = cv.Scoring(damping=DAMPING, score=name)
        target = path.with_name(f"{name}.{suffix}")
        report = cv.score_request("ekfac", given, scoring, out=target).run(False)
        op = cv.fit("ekfac", given, progress=False)
        wanted = cv.influence(op, given, damping=DAMPING, score=name, progress=False)
        kept = np.load(target) if suffix == "npy" else np.asarray(zarr.open(target)["scores"])
        assert_close(torch.from_numpy(kept), wanted)
        assert report.axes == axes
        assert report.notes["score"] == name


def test_a_store_of_other_scores_is_refused(tmp_path):
    given = classes()
    out = tmp_path / "scores.zarr"
    cv.score_request("ekfac", given, cv.Scoring(damping=DAMPING, score="relatif"), out=out).run(
        False
    )
    asked = cv.Scoring(damping=DAMPING, score="trackstar")
    assert_refused(Code.E0881, lambda: cv.score_request("ekfac", given, asked, out=out))


def test_turns_by_memory_give_the_same_bits(monkeypatch):
    given = classes(n=11)
    op = cv.fit("ekfac", given, progress=False)
    whole = cv.influence(op, given, score="relatif", damping=DAMPING, progress=False)
    monkeypatch.setattr(formula_stream, "queries_at_once", lambda *_: 2)
    found = cv.influence(op, given, score="relatif", damping=DAMPING, progress=False)
    assert_close(found, whole)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"score": "relatif", "per_layer": True}, Code.E0426),
        ({"score": "relatif", "per_position": True}, Code.E0426),
        ({"score": "relatif", "compress": 1e-3}, Code.E0426),
        ({"score": "gradient_cosine", "damping": 0.1}, Code.E0426),
        ({"score": "gradient_cosine", "inverse": "pseudo"}, Code.E0426),
        ({"score": "relatiff"}, Code.E0240),
        ({"score": "relatif(power = 2)"}, Code.E0703),
        ({"score": 3}, Code.E0563),
    ],
)
def test_what_a_formula_does_not_have_is_refused(options, code):
    given = classes()
    op = cv.fit("ekfac", given, progress=False)
    assert_refused(code, lambda: cv.influence(op, given, progress=False, **options))


def test_extremes_of_a_score_without_queries_are_refused():
    given = classes()
    op = cv.fit("ekfac", given, progress=False)
    options = {"score": "own_influence", "damping": DAMPING, "progress": False}
    assert_refused(Code.E0430, lambda: cv.top_examples(op, given, 2, **options))


def test_a_kept_operator_knows_the_score_of_its_spec(tmp_path):
    given = classes()
    text = (
        "score mine(by: float = 1) {\n  needs u[q,p], v[n,p]\n  z[n,p] = solve(v)\n"
        "  yield s[q,n] = (sum[p] u[q,p] * z[n,p]) / (by + sum[p] v[n,p]^2)\n}\n"
        "curvature c = ekfac\nevaluate mine(by = 3) of c with tikhonov(damping = 0.1)"
    )
    op = cv.fit(loads(text), given, progress=False)
    op.save(tmp_path / "op.safetensors")
    stored = cv.fit(loads(text), given, store=tmp_path / "store", progress=False)
    wanted = cv.influence(op, given, progress=False)
    for again in (cv.load_operator(tmp_path / "op.safetensors"), stored):
        assert again.score == op.score
        assert torch.equal(cv.influence(again, given, progress=False), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_is_that_of_the_curvature(dtype):
    given = classes().to(dtype=dtype)
    op = cv.fit("ekfac", given, progress=False)
    for name, damping in (("relatif", DAMPING), ("gradient_cosine", None)):
        scores = cv.influence(op, given, score=name, damping=damping, progress=False)
        wide = classes()
        exact = cv.influence(
            cv.fit("ekfac", wide, progress=False), wide, score=name, damping=damping, progress=False
        )
        assert_close(scores.double(), exact, 1e-4 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("name", list(shipped_scores()))
def test_what_ships_is_checked_and_has_a_source(name):
    for found in cv.load(name).scores.values():
        assert found.doc


def _share():
    cuts.PAIRS = 2
    given = small(network([3, 5, 4]), "mse", n=23)
    op = cv.fit("ekfac", given, progress=False)
    z = formula(BODIES["standardised"])
    found = [
        cv.influence(op, given, score="relatif", damping=DAMPING, progress=False),
        cv.influence(op, given, score=z, progress=False),
        cv.influence(op, given, score="own_influence", damping=DAMPING, progress=False),
    ]
    return [x.tolist() for x in found]


def test_processes_share_the_examples_and_give_the_same_bits():
    (alone,) = together(_share, 1)
    for rank in together(_share, 2):
        assert rank == alone


def test_a_suite_can_hold_scores_to_their_text():
    given = classes()
    op = cv.fit("ekfac", given, progress=False)
    found = formula(BODIES["relatif"])
    scores = cv.influence(op, given, score=found, damping=DAMPING, progress=False)
    inverse = op.inverse(DAMPING).operator
    ct.assert_score_as_written(found, scores, inverse, given)
    with pytest.raises(AssertionError, match="off by"):
        ct.assert_score_as_written(found, scores * 1.001, inverse, given)


MEANS = (
    "space k = 3\nR[p,k] = random_normal[p,k](0)\ng[n,k] = sum[p] R[p,k] * v[n,p]\n"
    "m[k] = mean[n] g[n,k]\nd[k] = mean[n] (g[n,k] - m[k])^2\n"
    "yield s[q,n] = sum[p,k] u[q,p] * R[p,k] * (g[n,k] - m[k]) / (d[k] + 1)"
)


def _read_by_one():
    """How many training examples a process reads, and the scores."""
    torch.set_num_threads(1)
    rows, read = evaluation.training_rows, []
    evaluation.training_rows = lambda point, within: (
        read.append(len(within)),
        rows(point, within),
    )[1]
    try:
        given = classes(n=1000)
        op = cv.fit("identity", given, progress=False)
        scores = cv.influence(op, given, score=formula(MEANS), progress=False)
        return sum(read), scores
    finally:
        evaluation.training_rows = rows


def test_processes_share_the_passes_of_sums():
    ((whole, alone),) = together(_read_by_one, 1)
    found = together(_read_by_one, 2)
    for _, scores in found:
        assert torch.equal(scores, alone)
    assert sum(count for count, _ in found) == whole
    assert max(count for count, _ in found) <= 0.6 * whole
