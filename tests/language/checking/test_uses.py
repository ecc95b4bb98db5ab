"""Texts of options: what is wrong is said of the text, not of what stands around it inside."""

from __future__ import annotations

import pytest

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language.checking.uses import inverse_text, part_text, solver_text, task_text

READ = {
    "inverse": inverse_text,
    "task": task_text,
    "solver": solver_text,
    "data": lambda text, name: part_text("data", text, name),
    "model": lambda text, name: part_text("model", text, name),
}
TEXTS = ["", "  ", "some(", "some(x", "some(x = ", "some(x = 1", "some(x = [1"]


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_end_too_early(kind, text):
    with pytest.raises(SpecError) as caught:
        READ[kind](text, "<text>")
    (problem,) = caught.value.diagnostics
    assert problem.code == "E0103"
    assert problem.help
    assert "digits" not in str(caught.value)
    assert "evaluate" not in str(caught.value)
