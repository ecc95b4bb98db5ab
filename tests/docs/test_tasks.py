"""docs/tasks.md is followed: its files are written, its commands and its Python are run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from curvlang.cli.main import run

import curvlang as cv
from curvlang.language import shipped
from curvlang.language.registry import OPTIMISERS
from tests.models.language_model import hide_torchvision

TEXT = (Path(__file__).parents[2] / "docs/tasks.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
REFUSED = "This is refused"
"""What stands behind a command that fails as it should."""

pytestmark = pytest.mark.filterwarnings("ignore:.*batching rule:UserWarning")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_net", None)


def write(text):
    """A block whose first line is a comment with a file's name is that file."""
    name = text.partition("\n")[0].removeprefix("# ")
    assert Path(name).suffix in (".cv", ".py")
    Path(name).write_text(text)
    return name


def test_the_files_and_commands(folder, capsys):
    ran = 0
    for language, text in BLOCKS:
        match language:
            case "cv":
                name = write(text)
                assert run(["check", name]) == 0
                assert run(["fmt", "--check", name]) == 0
            case "py":
                name = write(text)
                if "import" in text and name != "my_net.py":
                    exec(compile(text, name, "exec"), {})
            case "sh":
                program, *arguments = shlex.split(text)
                assert program == "curvlang"
                refused = TEXT.split(text)[1].lstrip("`\n").startswith(REFUSED)
                assert run(arguments) == (2 if refused else 0), capsys.readouterr().err
                ran += 1
            case _:
                assert language == "python"
    assert ran >= 7
    assert "Kronecker" in capsys.readouterr().out


def test_the_python(folder):
    hide_torchvision()
    scope: dict[str, object] = {}
    for language, text in BLOCKS:
        if language == "python":
            exec(text, scope)
    assert scope["result"].steps[-1].points[0].lds is not None
    assert scope["scores"].shape == (2, 16)
    assert bool(torch.isfinite(scope["scores"]).all())


def test_the_table_of_tasks():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \| [\d.]+ s \|$", TEXT, re.MULTILINE))
    assert set(rows) == {x.name for x in shipped() if x.kind == "task"}
    for name, parameters in rows.items():
        assert int(parameters) == cv.task(name).P


def test_the_table_of_optimisers():
    rows = re.findall(r"^\| `(\w+)` \| (`.*`) \| (.*) \|$", TEXT.split("## Training")[1], re.M)
    assert {name for name, _, _ in rows} == set(OPTIMISERS)
    common = set.intersection(*(set(x.parameters) for x in OPTIMISERS.values()))
    for name, own, decay in rows:
        assert set(re.findall(r"`(\w+)`", own)) == set(OPTIMISERS[name].parameters) - common
        recipe = cv.Recipe(optimiser=name, weight_decay=0.25)
        assert recipe.l2 == (0.25 if decay == "`weight_decay`" else 0)
