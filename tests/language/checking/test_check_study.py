"""Studies: read, checked, multiplied out; what ships is checked and formatted."""

from __future__ import annotations

import pytest

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language import check_text, load_studies, loads, shipped_studies
from curvlang.language.syntax.formatter import format_text

DEPTH = """study depth {
  "Why?"
  task     digits(hidden = [width] * depth, epochs = 10) for depth in [1, 4] for width in [8, 16]
  path     hessian > ggn
  curvatures diagonal
  seeds    2
  inverses tikhonov, pseudo(rtol = 1e-4)
  damping  [1e-3, 1]
  protocol subsets = 20, initialisation = start for start in [fresh, shared]
}
"""


def test_sweeps_are_multiplied_out():
    study = loads(DEPTH).studies["depth"]
    assert study.doc == "Why?"
    assert [c.name for c in study.curvatures] == ["hessian", "ggn", "diagonal"]
    assert len(study.path) == 2
    assert study.seeds == (0, 1)
    assert study.damping == (1e-3, 1.0)
    assert [u.inverse.name for u in study.inverses] == ["tikhonov", "pseudo"]
    assert len(study.cells) == 8
    last = study.cells[-1]
    assert last.values == {"depth": 4, "width": 16, "start": "shared"}
    assert last.task.model.arguments["hidden"] == (16,) * 4
    assert last.lds is not None
    assert last.lds["initialisation"] == "shared"
    assert last.lds["subsets"] == 20


def test_what_is_left_out_has_its_default():
    study = loads("study x { curvatures kfac }").studies["x"]
    assert (study.seeds, study.inverses, study.damping, study.path) == ((0,), (), None, ())
    (cell,) = study.cells
    assert cell.task.name == "digits"
    assert cell.lds is not None
    assert cell.lds["subsets"] == 100


def test_protocol_none_retrains_nothing():
    study = loads("study x { path hessian > ggn protocol none }").studies["x"]
    assert study.cells[0].lds is None


def test_inverses_none_is_not_the_default_inverse():
    study = loads("study x { path hessian > ggn inverses none protocol none }").studies["x"]
    assert study.inverses is None
    # A file's own inverse of this name is that inverse.
    own = "inverse none: s -> 1 / (s + 1)\nstudy x { path ggn inverses none }"
    (use,) = loads(own).studies["x"].inverses
    assert use.inverse.name == "none"


def test_a_swept_name_does_not_leak_into_the_task():
    # `tanh` is a word of the task's body, and a swept name here.
    text = "study x { task digits(epochs = tanh) for tanh in [1, 2] path ggn }"
    cells = loads(text).studies["x"].cells
    assert [c.task.train.arguments["epochs"] for c in cells] == [1, 2]
    assert {c.task.model.arguments["activation"] for c in cells} == {"tanh"}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("path hessian > ggnn", "E0206"),
        ("path hessian < ggn", "E0911"),
        ("path ggn > ggn", "E0912"),
        ("seeds 3", "E0913"),
        ("path ggn seeds [1, 1]", "E0914"),
        ("path ggn seeds 0", "E0707"),
        ("path ggn seeds [0, fast]", "E0705"),
        ("path ggn task digits(epochs = x) for x in []", "E0914"),
        ("path ggn task digits(epochs = x) for x in 3", "E0914"),
        ("path ggn task digits(epochs = x) for x in [1] for x in [2]", "E0914"),
        ("path ggn task digits for x in [1]", "E0915"),
        ("path ggn task digts", "E0711"),
        ("path ggn task digits(epochs = x) for x in [1, fast]", "E0705"),
        ("path ggn protocol off", "E0916"),
        ("path ggn protocol subset = 3", "E0703"),
        ("path ggn damping [fast]", "E0705"),
        ("path ggn damping [-1]", "E0707"),
        ("path ggn damping []", "E0914"),
        ("path ggn inverses tikhonv", "E0712"),
        ("path ggn inverses absolute, absolute", "E0914"),
        ("path ggn inverses none", "E0920"),
        ("path ggn inverses none(damping = 1) protocol none", "E0920"),
        ("path ggn inverses none protocol none measures mislabelled", "E0920"),
        ("path ggn inverses none protocol none damping [1]", "E0915"),
        ("path ggn inverses none, tikhonov protocol none", "E0712"),
        ("path ggn path ggn", "E0718"),
        ("path ggn baselines gradient_cosin", "E0920"),
        ("path ggn baselines gradient_cosine, gradient_cosine", "E0920"),
        ("path ggn baselines gradient_cosine protocol none", "E0920"),
        ("path ggn baselines metagradient(models = 0)", "E0707"),
        ("path ggn baselines source of ekfak", "E0206"),
        ("path ggn baselines source(curvature = ekfac)", "E0703"),
        ("path ggn baselines source", "E0245"),
        ("path ggn baselines own_influence of ekfac", "E0245"),
        ("path ggn baselines gradient_cosine of ekfac", "E0245"),
        ("path ggn baselines metagradient of ekfac", "E0245"),
        ("path ggn baselines relatif of ekfac with tikhonov", "E0245"),
        ("path ggn baselines relatif of ekfac with tikonov(damping = 1)", "E0712"),
        ("path ggn baselines source of ekfac with tikhonov(damping = 1)", "E0245"),
        ("path ggn baselines relatif of ekfac, relatif of ekfac", "E0920"),
        ("path ggn measures mislabeled", "E0920"),
        ("path ggn measures mislabelled(share = 2)", "E0707"),
        ("path ggn protocol groups = two", "E0706"),
        ("pth ggn", "E0101"),
    ],
)
def test_mistakes_are_named(line, code):
    found = check_text(f"study x {{ {line} }}")
    assert [d.code for d in found] == [code]
    assert found[0].labels


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_checked_and_formatted(name):
    text = shipped_studies()[name]
    assert check_text(text, f"{name}.cv") == []
    assert format_text(text) == text
    _, studies = load_studies(name)
    assert all(s.doc and s.cells for s in studies)


def test_one_study_of_a_file_is_chosen():
    _, (one,) = load_studies("residual:residual_width")
    assert one.name == "residual_width"
    with pytest.raises(SpecError, match="E0919"):
        load_studies("residual:residual_with")
