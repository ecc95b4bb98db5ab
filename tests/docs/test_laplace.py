"""docs/laplace.md is run from top to bottom: its assertions are its claims."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/laplace.md").read_text("utf-8")


def test_the_page_runs():
    scope: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 6
    for code in blocks:
        exec(compile(code, "docs/laplace.md", "exec"), scope)
