"""docs/precision.md is run: errors are measured, and true ones are within them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/precision.md").read_text()
NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")


def test_the_page(capsys):
    scope: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
            exec(compile(code, "docs/precision.md", "exec"), scope)
    (shown,) = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    printed = capsys.readouterr().out
    assert NUMBER.sub("0", printed).split() == NUMBER.sub("0", shown).split()
