"""A study's result shows itself: tables, a notebook's HTML, a frame, figures and a run folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import curvlang as cv
from curvlang.evaluation.study import study_file
from curvlang.reporting.study.group_figures import STUDY_FIGURES
from tests.reporting.test_report import page

KEPT = Path(__file__).parents[3] / "docs" / "results" / "baselines.json.gz"


@pytest.fixture(scope="module")
def kept():
    return cv.read_study(KEPT)


def test_a_study_is_tables_in_a_notebook(kept):
    seen = page(kept)
    assert seen.tags.count("details") == len(kept.groups)
    numbers = {f"{row.spots[0].lds.estimate:.3f}"[1:] for g in kept.groups for row in g.rows}
    assert all(number in seen.text for number in numbers)
    assert all(row.label in seen.text for group in kept.groups for row in group.rows)


def test_a_study_prints_the_tables_of_the_command_line(kept):
    assert str(kept) == kept.table()
    assert all(row.label in kept.table() for group in kept.groups for row in group.rows)
    assert max(map(len, kept.table(width=70).splitlines())) <= 70


def test_a_frame_has_a_row_for_every_curvature_and_setting(kept):
    frame = kept.to_pandas()
    rows = [(row, spot) for g in kept.groups for row in g.rows for spot in row.spots]
    assert list(frame["curvature"]) == [row.label for row, _ in rows]
    assert list(frame["lds"]) == [spot.lds.estimate for _, spot in rows]
    assert list(frame["damping"]) == [spot.damping for _, spot in rows]


def test_figures_have_the_names_of_the_files(kept):
    drawn = {name: draw(kept) for name, draw in STUDY_FIGURES.items()}
    assert all(figure.name == name for name, figure in drawn.items())
    assert sum(figure.svg is not None for figure in drawn.values()) > 3
    assert kept.figure("forward").svg == drawn["forward"].svg
    with pytest.raises(cv.SpecError, match="E0722") as caught:
        kept.figure("sweep")
    assert all(name in str(caught.value) for name in STUDY_FIGURES)


def test_a_saved_study_is_read_again(kept, tmp_path):
    place = kept.save(tmp_path / "run", formats=["csv"])
    assert cv.read_study(place) == kept
    assert cv.read_study(place / "study.json") == kept
    assert not (place / "spec.cv").exists()
    assert (place / "tables" / "points.csv").exists()
    (place / "spec.cv").write_text("curvature x = hessian")
    again = cv.read_study(place)
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "spec.cv").read_text() == "curvature x = hessian"


def test_a_report_equals_its_result_alone(kept):
    assert kept == study_file.read_study(KEPT)
    assert kept.plain() == kept


@pytest.mark.parametrize("formats", ["md", ["docx"], ["md", 3]])
def test_formats_that_there_are_not_are_refused(kept, formats, tmp_path):
    with pytest.raises(cv.SpecError, match="E0563"):
        kept.save(tmp_path / "run", formats=formats)
    assert not (tmp_path / "run").exists()


def test_other_files_are_left_alone(kept, tmp_path):
    shutil.copy(KEPT, tmp_path)
    with pytest.raises(cv.SpecError, match="E0903"):
        kept.save(tmp_path)
    with pytest.raises(cv.SpecError, match="E0563"):
        kept.save(7)
