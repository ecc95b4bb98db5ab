"""`curvlang study` as a user runs it: whole, in parts, again, and what it refuses."""

from __future__ import annotations

import csv
import json
import re

import pytest
from curvlang.cli.main import run

import curvlang as cv
from tests.evaluation.study.test_study import SPEC

SMALL = SPEC.replace("seeds      2", "seeds 1").replace("tikhonov, pseudo(rtol = 1e-4)", "tikhonov")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.cv").write_text(SMALL)
    return tmp_path


def test_a_study_leaves_its_folder(here, capsys):
    assert run(["study", "mine.cv", "--out", "a", "--format", "md,csv,pdf,gz"]) == 0
    shown = capsys.readouterr()
    assert "verdict" in shown.out
    assert "depth = 2" in shown.out
    assert "cell 2 of 2: depth = 2, seed 0" in shown.err
    names = {x.relative_to(here / "a").as_posix() for x in (here / "a").rglob("*") if x.is_file()}
    assert {"study.json", "report.html", "report.md", "spec.cv", "tables/pairs.csv"} <= names
    assert {f"figures/{x}.svg" for x in ("lds-error", "shares", "forward", "lds-damping")} <= names
    assert len([n for n in names if n.startswith("cells/")]) == 4
    assert (here / "a/figures/shares.pdf").read_bytes().startswith(b"%PDF")
    page = (here / "a/report.html").read_text()
    assert not re.search(r'(src|href)="https?:|<script', page)
    rows = list(csv.DictReader((here / "a/tables/points.csv").open()))
    assert len(rows) == 2 * 5 * 2  # places, curvatures, settings
    assert {r["curvature"] for r in rows} == {"hessian", "ggn", "block_ggn", "kfac", "diagonal"}
    assert cv.read_study(here / "a/study.json.gz").done == 2
    found = json.loads((here / "a/study.json").read_text())
    assert (found["done"], found["cells"]) == (2, 2)
    assert found["provenance"]["repeat"][:3] == ["curvlang", "study", "spec.cv:tiny_depth"]


def test_parts_and_a_partial_report_come_together(here, capsys):
    assert run(["study", "mine.cv", "--out", "a", "--shard", "1/2", "-q"]) == 0
    assert "1 of 2 cells so far" in capsys.readouterr().out
    assert run(["study", "mine.cv", "--out", "a", "--report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 1
    assert run(["study", "mine.cv", "--out", "a"]) == 0
    said = capsys.readouterr()
    assert "cell 1 of 1" in said.err
    assert run(["study", "mine.cv", "--out", "a"]) == 0
    assert "cell" not in capsys.readouterr().err


def test_quick_is_another_run(here, capsys):
    assert run(["study", "mine.cv", "--quick", "-q"]) == 0
    assert "--quick" in capsys.readouterr().out
    (folder,) = (here / "runs").iterdir()
    assert folder.name.startswith("tiny_depth-")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["mine.cv:tiny"], "E0919"),
        (["ekfac"], "E0919"),
        (["mine.cv", "--shard", "3/2"], "E0918"),
        (["mine.cv", "--format", "png"], "E0708"),
        (["mine.cv", "--out", "foreign"], "E0903"),
        (["mine.cv", "--dtype", "float16"], "E0708"),
        (["nowhere"], "E0110"),
    ],
)
def test_refusals_come_before_the_work(here, capsys, arguments, code):
    (here / "foreign").mkdir()
    (here / "foreign/thesis.tex").write_text("")
    assert run(["study", *arguments]) == 2
    assert f"error[{code}]" in capsys.readouterr().err
    assert not (here / "runs").exists()
