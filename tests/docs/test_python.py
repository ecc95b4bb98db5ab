"""docs/python.md is run from top to bottom, and names what a user may call."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import curvlang as cv
from curvlang.reporting.runfolder import FILES, STEP_SCORES, read_result

TEXT = (Path(__file__).parents[2] / "docs/python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
ELSEWHERE = {
    "study",
    "task",
    "task_from",
    "CrossEntropy",
    "BinaryCrossEntropy",
    "Metric",
    "load",
    "Trajectory",
}
"""What other pages show."""
TYPES = {
    "CheckedFile",
    "Diagnostic",
    "EvaluationRequest",
    "FittedOperator",
    "Installation",
    "LawReport",
    "MachineError",
    "Report",
    "ScoreReport",
    "World",
    "ScoreRequest",
    "Spec",
    "StudyRequest",
    "StudyRun",
    "TokenScores",
    "__version__",
}


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    scope: dict[str, object] = {}
    for code in BLOCKS:
        exec(compile(code, "docs/python.md", "exec"), scope)
    result = scope["result"]
    assert {path.name for path in Path("runs/mine").iterdir()} == FILES - {STEP_SCORES}
    assert read_result("runs/mine") == result.plain()
    assert result.steps[-1].points[0].lds is not None
    shown = capsys.readouterr().out
    assert "error against hessian" in shown
    assert "helpful" in shown
    assert scope["found"].estimate > 0
    op, task = scope["op"], scope["task"]
    largest = float(op.eigenvalues().max())
    assert abs(float(scope["largest"][0]) - largest) < 1e-9 * largest
    solved = torch.from_numpy(scope["solved"])
    assert torch.allclose(solved, scope["inverse"] @ scope["v"], rtol=1e-3, atol=1e-4)
    assert torch.allclose(sum(scope["layers"].values()), scope["scores"])
    assert scope["own"].shape == (task.N,)


def test_every_public_name_stands_on_a_page():
    for name in set(cv.__all__) - ELSEWHERE - TYPES:
        assert re.search(rf"\bcv\.{name}\b", TEXT), name


def test_a_former_name_says_what_to_use():
    with pytest.raises(AttributeError, match=r"cv\.explain\(spec, task\)"):
        cv.compile  # noqa: B018


def test_every_method_of_an_operator_is_shown():
    own = {n for n in vars(cv.FittedOperator) if not n.startswith("_")}
    for name in own - {"memory", "structure"}:
        assert re.search(rf"\.{name}\b", TEXT), name
