"""docs/language_models.md is followed: a model is trained there, commands and Python are run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
from curvlang.cli.main import run

from tests.models.language_model import hide_torchvision

TEXT = (Path(__file__).parents[2] / "docs/language_models.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
REFUSED = "This is refused"
"""What stands behind a command that fails as it should."""


def plain(text):
    """Lines without numbers, quoted texts and the spaces that they need."""
    shown = re.sub(r"“.*?”", "“”", re.sub(r"[-+]?\d+(\.\d+)?(e[-+]\d+)?", "0", text))
    return [" ".join(line.split()) for line in shown.splitlines() if line.strip()]


def test_the_page(tmp_path, monkeypatch, capsys):
    hide_torchvision()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    scope: dict[str, object] = {}
    printed = ""
    for language, text in BLOCKS:
        match language:
            case "python":
                exec(compile(text, "docs/language_models.md", "exec"), scope)
            case "cv":
                Path(text.partition("\n")[0].removeprefix("# ")).write_text(text)
            case "sh":
                capsys.readouterr()
                arguments = shlex.split(text)[1:]
                refused = TEXT.split(text)[1].lstrip("`\n").startswith(REFUSED)
                code = run(arguments)
                found = capsys.readouterr()
                assert code == (2 if refused else 0), found.err
                assert not refused or "which ships as `ekfac_lm`" in found.err
                printed = found.err.replace(f"{tmp_path}/", "") + found.out
            case _:
                lines = iter(plain(printed))
                assert [line for line in plain(text) if line not in lines] == []
    assert np.load("scores.npy").shape == (2, 27)
    assert np.load("packed.npy").shape[0] == 3
    assert "<svg" in Path("report/report.html").read_text()
