"""Every diagnostic has a page, and every page shows what really happens."""

from __future__ import annotations

import re

import pytest

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import MachineError, Severity, SpecError
from curvlang.diagnostics.pages import page
from curvlang.diagnostics.render import render
from curvlang.language import check_text
from tests.models.language_models.checkpoints import saved

SETTING = """
from pathlib import Path
import torch
import curvlang as cv
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
model = model.double().eval()
X, y = torch.randn(40, 5).double(), torch.randint(0, 3, (40,))
task = cv.Task(model, "cross_entropy", (X, y), (X[:4], y[:4]))
"""
"""What every Python example of a page stands in."""


def parts(code):
    """Language and text of every block of a page."""
    return re.findall(r"```(\w+)\n(.*?)\n```", page(code), re.DOTALL)


def happens(language, text):
    if language == "cv":
        return check_text(text + "\n", "mine.cv")
    scope: dict[str, object] = {}
    exec(SETTING, scope)
    with pytest.raises((SpecError, MachineError)) as caught:
        exec(text, scope)
    return list(caught.value.diagnostics)


@pytest.mark.parametrize("code", Code)
def test_the_example_renders_exactly_so(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (language, text), (kind, shown), *rest = parts(code)
    if "checkpoint" in text:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        saved("checkpoint")
    assert kind == "text"
    found = happens(language, text)
    assert [d.code for d in found] == [code]
    rendered = render(found).replace(f"{tmp_path}/", "")
    if code in ("E0801", "E0802"):
        # What is free differs from machine to machine.
        rendered, shown = (re.sub(r"[\d.]+( \w+)? are free", "", x) for x in (rendered, shown))
    assert rendered == shown
    for language_, text_ in rest:
        if language_ == "cv":
            left = [d for d in check_text(text_ + "\n", "mine.cv") if d.severity is Severity.ERROR]
            assert left == []
