"""docs/other_tools.md is run from top to bottom: its assertions are its claims."""

from __future__ import annotations

import gc
import logging
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs/other_tools.md").read_text("utf-8")


@pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning")
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # kronfluence collects garbage between all its steps, which takes most of the time of small ones.
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)
    monkeypatch.setattr(logging.root.manager, "disable", logging.WARNING)
    scope: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 5
    for code in blocks:
        exec(compile(code, "docs/other_tools.md", "exec"), scope)
    assert capsys.readouterr().out.count("tensor") >= 2
