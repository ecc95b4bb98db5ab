"""An argument by a name that a public function does not have is refused before any work."""

from __future__ import annotations

import pytest

import curvlang as cv
from tests.reporting.test_displays import SETTINGS

CALLED = (
    "Task", "benchmark", "coverage", "evaluate", "explain", "fit", "index", "influence", "lds",
    "leading_eigenpairs", "score_request", "self_influence", "study", "top", "top_examples",
)  # fmt: skip


@pytest.mark.parametrize("name", CALLED)
def test_an_unknown_keyword_is_refused(name):
    with pytest.raises(cv.SpecError, match=rf"E0567.*`{name}` has no argument `zzzz`"):
        getattr(cv, name)(zzzz=1)


@pytest.mark.parametrize("name", sorted(SETTINGS - {"World"}))
def test_an_unknown_field_of_what_users_write_down_is_refused(name):
    with pytest.raises(cv.SpecError, match=rf"E0567.*`{name}` has no argument `zzzz`"):
        getattr(cv, name)(zzzz=1)


@pytest.mark.parametrize(
    ("name", "wrong", "meant"),
    [
        ("Recipe", "optimizer", "optimiser"),
        ("LDS", "subset", "subsets"),
        ("evaluate", "protocl", "protocol"),
        ("evaluate", "metrc", "metric"),
        ("study", "smal", "small"),
        ("influence", "dampng", "damping"),
        ("Task", "trainn", "train"),
    ],
)
def test_the_argument_that_was_meant_is_named(name, wrong, meant):
    """Those that stand in `**words` among them: they were read by nothing, in silence."""
    with pytest.raises(cv.SpecError, match=f"did you mean `{meant}`"):
        getattr(cv, name)(**{wrong: 1})


def test_what_belongs_to_a_task_is_said():
    with pytest.raises(cv.SpecError, match=r'E0567[\s\S]*task\.to\(device="cuda"\)'):
        cv.fit("kfac", None, device="cuda")


def test_a_path_without_a_file_says_where_it_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.cv").write_text("curvature mine = block_ggn")
    for given, help_ in (
        ("mien.cv", "did you mean `mine.cv`"),
        (str(tmp_path / "mien.cv"), f"did you mean `{tmp_path / 'mine.cv'}`"),
        ("specs/ekfac.cv", "did you mean `ekfac`"),
        ("nowhere/zzzz.cv", f"`{tmp_path}` has no `nowhere/zzzz.cv`"),
        ("zzzz", "curvlang list"),
    ):
        with pytest.raises(cv.SpecError, match="E0110") as caught:
            cv.load(given)
        assert help_ in str(caught.value), given
