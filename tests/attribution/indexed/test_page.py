"""What docs/scores.md shows of an index is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import torch
from curvlang.cli.main import run

import curvlang as cv

TEXT = (Path(__file__).parents[3] / "docs/scores.md").read_text()
SMALL = ["--task", "digits(hidden = [2], epochs = 1)", "-q"]


def blocks(title, language):
    """The blocks of a language under a heading."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = cv.task("digits(hidden = [2], epochs = 1)", train=True)
    scope: dict[str, object] = {"cv": cv, "torch": torch, "digits": digits}
    for code in blocks("An index for later queries", "python"):
        exec(code, scope)


def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("An index for later queries", "sh")
    for line in text.splitlines():
        name, *given = shlex.split(line, comments=True)
        assert name == "curvlang"
        assert run([*given, *SMALL]) == 0
    assert Path("relatif.npy").exists()
