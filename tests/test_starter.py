"""`curvlang init` writes files that check, format, hold their laws and run; nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from curvlang.cli.main import run

import curvlang as cv


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return cv.first_files("mine")


def test_the_spec_is_ready(files, capsys):
    spec, _ = map(str, files)
    assert run(["check", spec]) == 0
    assert run(["fmt", spec, "--check"]) == 0
    assert run(["explain", spec]) == 0
    assert "mine_factors" in capsys.readouterr().out


def test_its_evaluation_runs(files, capsys):
    small = ["--task", "digits(hidden = [4], epochs = 1)", "--no-lds", "--json"]
    assert run(["eval", str(files[0]), *small]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][-1]["label"] == "mine"


def test_its_tests_pass(files):
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", files[1].name],
        cwd=files[1].parent,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
    assert "2 passed" in found.stdout


@pytest.mark.parametrize(
    ("name", "instead"),
    [("kfac", "my_kfac"), ("2x", "my_2x"), ("My Idea", "my_idea"), ("../x", "x"), ("é", "mine")],
)
def test_a_name_that_cannot_be_taken(name, instead, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["init", name]) == 2
    assert f"`{instead}`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    cv.first_files(instead)


def test_nothing_is_overwritten(files, capsys):
    files[1].write_text("mine\n")
    files[0].unlink()
    assert run(["init", "mine"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert files[1].read_text() == "mine\n"
    assert not files[0].exists()


def test_another_folder(tmp_path, capsys):
    assert run(["init", "mine", str(tmp_path / "a" / "b")]) == 0
    assert sorted(x.name for x in (tmp_path / "a" / "b").iterdir()) == ["mine.cv", "test_mine.py"]


def test_a_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "a").write_text("")
    assert run(["init", "mine", str(tmp_path / "a")]) == 2
    assert "cannot be written to" in capsys.readouterr().err
