"""Scores from an index are those without one, and what it cannot give is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv
from curvlang.attribution.indexed import writing
from curvlang.attribution.streams.cut import ScoreCut
from curvlang.diagnostics.codes import Code
from curvlang.storage.fits.records import read_record, write_record
from curvlang.testing.score_comparison import gradients_one_by_one
from tests.attribution.formulas.formulas import assert_close
from tests.attribution.formulas.test_formula_scores import TASKS
from tests.attribution.formulas.test_trajectories import made
from tests.models.support import assert_refused
from tests.processes import together
from tests.small import network
from tests.small import task as small

COORDINATES = """
curvature mine = block_ggn |> project_random(inputs = 2, outputs = 2)
evaluate mine with restricted(damping = 0.1)
"""
WHOLE = """
curvature mine = ggn |> project_model(dimension = 6)
evaluate mine with restricted(damping = 0.1)
"""
KRONECKER = """
curvature mine = block_ggn |> project_random(inputs = 2, outputs = 2) |> kronecker_factor |> eigen_correct
evaluate mine with restricted(damping = 0.1)
"""
LEADING = """
curvature mine = block_ggn |> low_rank(rank = 3)
evaluate mine with restricted(damping = 0.1)
"""
PROJECTED = """
score cosine {
  needs u[q,p], v[n,p]
  space k = 5
  R[p,k] = random_normal[p,k](3)
  f[q,k] = sum[p] R[p,k] * u[q,p]
  g[n,k] = sum[p] R[p,k] * v[n,p]
  m[k] = mean[n] g[n,k]
  a[n] = 1e-30 + sum[k] (g[n,k] - m[k])^2
  x[q,n] = sum[k] f[q,k] * (g[n,k] - m[k]) / sqrt(a[n])
  d[q] = mean[n] x[q,n]
  yield s[q,n] = x[q,n] - d[q] + size[n]
}
score solved {
  needs u[q,p], v[n,p]
  space k = 5
  R[p,k] = random_normal[p,k](3)
  z[n,p] = solve(v)
  f[q,k] = sum[p] R[p,k] * u[q,p]
  g[n,k] = sum[p] R[p,k] * z[n,p]
  yield s[q,n] = sum[k] f[q,k] * g[n,k]
}
curvature mine = kfac
evaluate cosine of mine
"""
ALONG = """
score along {
  needs u[e,h,q,p], v[e,h,n,p], rate[h], doubt[n]
  space k = 4
  R[p,k] = random_normal[p,k](1)
  f[e,h,q,k] = sum[p] R[p,k] * u[e,h,q,p]
  g[e,h,n,k] = sum[p] R[p,k] * v[e,h,n,p]
  yield s[q,n] = doubt[n] * (mean[e] sum[h,k] rate[h] * f[e,h,q,k] * g[e,h,n,k])
}
curvature mine = identity
evaluate along of mine
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of four examples: N = 11 makes three, the last one shorter."""
    monkeypatch.setattr(writing, "score_cut", lambda total, *_: ScoreCut(total, 4))


def written(text, task, store, **options):
    return cv.index(cv.loads(text), task, store=store, progress=False, **options)


def both(text, task, store, **options):
    index = written(text, task, store, score=options.get("score"))
    found = cv.influence(index, task, progress=False, **options)
    op = cv.fit(cv.loads(text), task, progress=False)
    return found, cv.influence(op, task, progress=False, **options)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("text", [COORDINATES, WHOLE, KRONECKER], ids=["layers", "model", "ekfac"])
def test_scores_in_coordinates(name, text, tmp_path):
    found, wanted = both(text, TASKS[name](), tmp_path / "s")
    assert_close(found, wanted)


@pytest.mark.parametrize("score", ["relatif", "theta_relatif", "trackstar", "own_influence"])
@pytest.mark.parametrize("text", [COORDINATES, LEADING], ids=["random", "leading"])
def test_other_scores_read_the_same_coordinates(score, text, tmp_path):
    index = written(text, TASKS["positions"](), tmp_path / "s")
    task = TASKS["positions"]()
    op = cv.fit(cv.loads(text), task, progress=False)
    found = cv.influence(index, task, score=score, progress=False)
    assert_close(found, cv.influence(op, task, score=score, progress=False))


def test_an_index_says_what_it_keeps(tmp_path):
    index = written(COORDINATES, TASKS["positions"](), tmp_path / "s")
    line = repr(cv.load_index(tmp_path / "s"))
    assert line == repr(index) == str(index)
    assert line.startswith("<index of mine: gradients in the ")
    assert "torch" not in line


def test_scores_are_those_of_rows_by_autograd(tmp_path):
    task = TASKS["positions"]()
    index = written(COORDINATES, task, tmp_path / "s")
    u, v = (gradients_one_by_one(task, x) for x in ("query", "train"))
    wanted = u @ index.inverse().operator.dense() @ v.T
    assert_close(cv.influence(index, task, progress=False), wanted)


@pytest.mark.parametrize("score", ["influence", "gradient_cosine", "relatif"])
def test_gradients_over_all_parameters(score, tmp_path):
    task = TASKS["dense"]()
    index = written("curvature mine = kfac", task, tmp_path / "s")
    op = cv.fit("kfac", task, progress=False)
    found = cv.influence(index, task, score=score, progress=False)
    assert_close(found, cv.influence(op, task, score=score, progress=False))
    assert index.written[0].words == f"gradients over all {task.P} parameters"


@pytest.mark.parametrize("score", ["cosine", "solved", "trak(dimension = 3)"])
@pytest.mark.parametrize("name", ["dense", "convolution", "tied", "one example"])
def test_scores_of_projections(score, name, tmp_path):
    if name == "one example" and score != "solved":
        pytest.skip("a single example is its own mean: 0/0 on both sides")
    found, wanted = both(PROJECTED, TASKS[name](), tmp_path / "s", score=score)
    assert_close(found, wanted)


def test_queries_of_another_time(tmp_path):
    task = TASKS["dense"]()
    written(COORDINATES, task, tmp_path / "s")
    X, y = torch.randn(9, 3).double(), torch.randint(0, 3, (9,))
    later = task.replaced(query=(X, y))
    index = cv.load_index(tmp_path / "s")
    options = {"metric": "margin", "groups": [[0, 3], [2], [8, 1, 2]], "reduce": "mean"}
    op = cv.load_operator(tmp_path / "s")
    found = cv.influence(index, later, progress=False, **options)
    assert_close(found, cv.influence(op, later, progress=False, **options))
    tops = [cv.top_examples(x, later, 3, progress=False) for x in (index, op)]
    helpful = [[[n.index for n in one.helpful] for one in top] for top in tops]
    assert helpful[0] == helpful[1]


def test_no_training_example_is_read(tmp_path, monkeypatch):
    task = TASKS["dense"]()
    written(COORDINATES, task, tmp_path / "s")
    index = cv.load_index(tmp_path / "s")
    index.check(task)
    batches = type(task).batches

    def refusing(self, size, part, within=None):
        assert part == "query"
        return batches(self, size, part, within)

    monkeypatch.setattr(type(task), "batches", refusing)
    monkeypatch.setattr(type(index), "check", lambda *_: None)
    assert cv.influence(index, task, progress=False).shape == (task.Q, task.N)


def test_checkpoints_and_models_are_kept(tmp_path, monkeypatch):
    task = made(trajectory=cv.Trajectory(epochs=1, models=2))
    index = written(ALONG, task, tmp_path / "s")
    op = cv.fit(cv.loads(ALONG), task, progress=False)
    wanted = cv.influence(op, task, progress=False)
    monkeypatch.setattr("curvlang.attribution.formulas.surroundings.train_baseline", None)
    monkeypatch.setattr("curvlang.attribution.formulas.surroundings.training_points", None)
    found = cv.influence(cv.load_index(tmp_path / "s"), task, progress=False)
    assert_close(found, wanted)
    assert index.written[0].models == (2, 3)


IN_SEGMENTS = """
score within {
  needs u[h,q,p], v[h,c,n,p], time[h], rate[h]
  space k = 4
  R[p,k] = random_normal[p,k](1)
  f[h,q,k] = sum[p] R[p,k] * u[h,q,p]
  g[h,c,n,k] = sum[p] R[p,k] * v[h,c,n,p]
  yield s[q,n] = mean[c] sum[h,k] time[h] * rate[h] * f[h,q,k] * abs(g[h,c,n,k])
}
curvature mine = ggn
evaluate within of mine
"""


def test_all_models_of_a_segment_and_its_time_are_kept(tmp_path, monkeypatch):
    text, task = IN_SEGMENTS, made(trajectory=cv.Trajectory(segments=2, per_segment=3))
    index = written(text, task, tmp_path / "s")
    wanted = cv.influence(cv.fit(cv.loads(text), task, progress=False), task, progress=False)
    monkeypatch.setattr("curvlang.attribution.formulas.surroundings.training_points", None)
    found = cv.influence(cv.load_index(tmp_path / "s"), task, progress=False)
    assert_close(found, wanted)
    assert (index.written[0].each, len(index.written[0].times)) == (3, 2)


APPLIED = """
inverse shown(power): s -> abs(s)^power + 0.1
score mine {
  needs u[q,p], v[n,p]
  space k = 4
  R[p,k] = random_normal[p,k](1)
  z[n,p] = apply(shown(POWER), v)
  f[q,k] = sum[p] R[p,k] * u[q,p]
  g[n,k] = sum[p] R[p,k] * z[n,p]
  yield s[q,n] = sum[k] f[q,k] * g[n,k]
}
curvature c = ggn |> project_model(dimension = 6)
evaluate mine of c
"""


def test_functions_of_the_spectrum_in_an_index(tmp_path):
    task = TASKS["positions"]()
    for power in (0.5, 2):
        for more in ("", " + 0.2"):
            text = APPLIED.replace("POWER", str(power)).replace(" + 0.1", " + 0.1" + more)
            assert_close(*both(text, task, tmp_path / "s"))
    assert len(written(text, task, tmp_path / "s").written) == 4


@pytest.mark.parametrize(
    "body",
    [
        "z[n,p] = apply(tikhonov(0.1), v) yield s[q,n] = sum[p] u[q,p] * z[n,p]",
        "x[q,p] = apply(tikhonov(0.1), u) yield s[q,n] = sum[p] x[q,p] * v[n,p]",
        "z[h,n,p] = solve(w) yield s[q,n] = sum[h,p] u[q,p] * z[h,n,p]",
        "z[e,n,p] = solve(y) yield s[q,n] = mean[e] sum[p] u[q,p] * z[e,n,p]",
    ],
)
def test_functions_and_inverses_that_coordinates_do_not_hold_are_refused(body, tmp_path):
    leaf = "v[h,n,p]" if "(w)" in body else "v[e,n,p]" if "(y)" in body else "v[n,p]"
    body = body.replace("(w)", "(v)").replace("(y)", "(v)")
    text = f"score mine {{ needs u[q,p], {leaf} {body} }}\n{COORDINATES}"
    text = text.replace("evaluate mine with", "evaluate mine of mine with")
    task = made(trajectory=cv.Trajectory(epochs=1, models=2))
    assert_refused(Code.E0762, lambda: written(text, task, tmp_path / "s", score="mine"))


@pytest.mark.parametrize(
    ("keep", "most"), [("bfloat16", 2**-7), ("float16", 2**-10), ("float32", 2**-22)]
)
def test_numbers_in_fewer_bytes(keep, most, tmp_path):
    # Gradients of very different sizes, some below the smallest number of float16.
    X, y = (
        torch.randn(11, 3).double() * 10.0 ** torch.arange(-8, 3)[:, None],
        torch.randn(11, 2).double(),
    )
    model = network([3, 4, 2])
    task = cv.Task(model, "mse", (X, y), (X[7:], y[7:]))
    for text in (COORDINATES, PROJECTED):
        index = written(text, task, tmp_path / text[1:6], keep=keep)
        op = cv.fit(cv.loads(text), task, progress=False)
        wanted = cv.influence(op, task, progress=False)
        found = cv.influence(index, task, progress=False)
        (contents,) = index.written
        assert 0 < contents.rounding < most
        assert f"in {keep}: rounding is at most" in contents.described()
        if text is COORDINATES:
            error = float((found - wanted).abs().max() / wanted.abs().max())
            assert 0 < error <= 3 * contents.error


def test_what_is_written_stays_written(tmp_path, monkeypatch):
    task = TASKS["dense"]()
    whole = written(COORDINATES, task, tmp_path / "whole")
    put, seen = writing.Folder.put, []

    def killed(self, name, *rest):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(name)
        return put(self, name, *rest)

    folder = tmp_path / "cut"
    cv.fit(cv.loads(COORDINATES), task, store=folder, progress=False)
    monkeypatch.setattr(writing.Folder, "put", killed)
    with pytest.raises(cv.Interrupted, match="2 of 3 chunks"):
        written(COORDINATES, task, folder)
    assert_refused(Code.E0763, lambda: cv.load_index(folder))
    monkeypatch.setattr(writing.Folder, "put", lambda *a: (seen.append(a[1]), put(*a))[1])
    index = written(COORDINATES, task, folder)
    assert seen == ["chunk-00000", "chunk-00001", "chunk-00002"]
    found, wanted = (cv.influence(x, task, progress=False) for x in (index, whole))
    assert torch.equal(found, wanted)


def test_a_damaged_chunk_is_found_and_written_again(tmp_path):
    task = TASKS["dense"]()
    index = written(COORDINATES, task, tmp_path / "s")
    wanted = cv.influence(index, task, progress=False)
    (path,) = (tmp_path / "s" / "index").glob("*/chunk-00001.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert_refused(
        Code.E0837, lambda: cv.influence(cv.load_index(tmp_path / "s"), task, progress=False)
    )
    again = written(COORDINATES, task, tmp_path / "s")
    assert torch.equal(cv.influence(again, task, progress=False), wanted)


def work(folder):
    torch.set_num_threads(1)
    task = small(network([3, 4, 3]), "cross_entropy", n=900)
    found = []
    for name, text in (("a", COORDINATES), ("b", PROJECTED)):
        index = cv.index(cv.loads(text), task, store=Path(folder) / name, progress=False)
        found.append(cv.influence(index, task, progress=False))
    return found


def test_two_processes_write_one_index(tmp_path):
    (alone,) = together(work, 1, str(tmp_path / "one"))
    two = together(work, 2, str(tmp_path / "two"))
    for found in two:
        assert all(map(torch.equal, found, alone))
    names = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("chunk-*")]
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_another_model_and_other_data_are_refused(tmp_path):
    task = TASKS["dense"]()
    index = written(COORDINATES, task, tmp_path / "s")
    X, y = task.train
    others = [
        cv.Task(network([3, 4, 3], seed=5), "cross_entropy", (X, y), task.query),
        task.replaced(train=(X + 1, y)),
    ]
    for other in others:
        assert_refused(Code.E0835, lambda task=other: cv.influence(index, task, progress=False))
    assert_refused(Code.E0835, lambda: written(KRONECKER, task, tmp_path / "s"))


@pytest.mark.parametrize("option", ["per_layer", "per_position", "per_token"])
def test_parts_of_scores_are_refused(option, tmp_path):
    task = TASKS["positions"]()
    index = written(COORDINATES, task, tmp_path / "s")
    assert_refused(Code.E0764, lambda: cv.influence(index, task, progress=False, **{option: True}))


def test_a_newer_format_and_a_full_disk(tmp_path, monkeypatch):
    task = TASKS["dense"]()
    written(COORDINATES, task, tmp_path / "s")
    (path,) = (tmp_path / "s" / "index").glob("*/result.json")
    write_record(path, read_record(path) | {"format": 2})
    assert_refused(Code.E0836, lambda: cv.load_index(tmp_path / "s"))
    cv.fit(cv.loads(COORDINATES), task, store=tmp_path / "t", progress=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(cv.MachineError) as full:
        written(COORDINATES, task, tmp_path / "t")
    assert full.value.diagnostics[0].code == Code.E0841


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = ["--task", "digits(hidden = [2], epochs = 1)", "-q"]
    assert run(["index", "logra", "--store", "s", *task]) == 0
    assert run(["influence", "logra", "--index", "s", "--out", "a.npy", "--json", *task]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["index"].startswith("gradients in the")
    assert run(["influence", "logra", "--index", "s", "--per-layer", *task]) == 2
    assert run(["influence", "logra", "--index", "s", "--score", "trak", *task]) == 2
    assert run(["index", "logra", "--score", "tracin", "--store", "s", *task]) == 2
    shown = capsys.readouterr().err
    assert "E0708" in shown
    assert "E0763" in shown
    assert "E0762" in shown
