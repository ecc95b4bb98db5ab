"""What the documents show is run."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from curvlang.cli.main import COMMANDS, run

from curvlang.diagnostics.amounts import size
from curvlang.language import check_text, load, loads
from curvlang.version import VERSION

ROOT = Path(__file__).parents[2]
ANOTHER_MACHINE = 0.002
"""The model is trained where the test runs: other kernels round otherwise, over 5 000 steps."""


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_readme_runs():
    for code in blocks("README.md", "python"):
        scope: dict[str, object] = {}
        exec(code, scope)


def test_a_strict_type_checker_accepts_the_readme_and_the_examples(tmp_path):
    """With the project's settings, so that its cache serves, and `--strict` in full for these files."""
    strict = "# mypy: warn_return_any=True, disallow_untyped_calls=True"
    examples = sorted((ROOT / "docs/examples").glob("*.py"))
    texts = {x.stem: x.read_text() for x in examples}
    texts["readme"] = "\n".join(blocks("README.md", "python"))
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(f"{strict}\n{text}")
    files = [str(tmp_path / f"{name}.py") for name in texts]
    called = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *files]
    done = subprocess.run(called, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{1 + len(examples)} source files" in done.stdout


@pytest.mark.parametrize("name", ["README.md", "docs/language.md"])
def test_the_specs_shown_check(name):
    found = blocks(name, "cv")
    assert found
    for text in found:
        assert check_text(text) == []


def test_the_spec_of_the_readme_is_the_shipped_one():
    (text,) = [x for x in blocks("README.md", "") if x.startswith("curvature")]
    assert check_text(text) == []
    assert loads(text).curvatures["ekfac"].stages == load("ekfac").curvatures["ekfac"].stages


def test_the_readme_specs_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("README.md", "cv")
    assert check_text(text) == []
    Path("mine.cv").write_text(text)
    assert run(["fmt", "--check", "mine.cv"]) == 0
    assert run(["explain", "mine.cv"]) == 0
    assert "Kronecker" in capsys.readouterr().out
    small = ["--quick", "--task", "digits(hidden = [2], epochs = 1)"]
    assert run(["eval", "mine.cv", *small, "--out", "run"]) == 0


def test_the_readme_commands_exist(capsys):
    text = (ROOT / "README.md").read_text()
    listed = re.findall(r"^curvlang (\w+)", text, re.MULTILINE)
    assert {"check", "explain", "fmt", "list"} <= set(listed) <= set(COMMANDS)
    assert run(["eval", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in re.findall(r"`(--[\w-]+)`", text):
        assert option in shown


def test_the_numbers_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["eval", "ekfac", "--no-lds", "-q", "--out", "run"]) == 0
    steps = json.loads(Path("run/result.json").read_text())["steps"]
    rows = re.findall(
        r"^\| (\w+) \| (.*?) \| (.*?) \| (.*?) \|", (ROOT / "README.md").read_text(), re.M
    )
    shown = {label: rest for label, *rest in rows if label in {s["label"] for s in steps}}
    assert list(shown) == [s["label"] for s in steps]
    for step in steps:
        structure, memory, forward = shown[step["label"]]
        assert (structure, memory) == (step["structure"], size(step["memory"]))
        assert float(forward) == pytest.approx(step["forward"], abs=ANOTHER_MACHINE)


@pytest.mark.parametrize(
    "name",
    [
        "curvlang.diagnostics.notebook",
        "curvlang.diagnostics.source",
        "curvlang.ir.indices",
        "curvlang.language.syntax.formatter",
    ],
)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_approximation_is_named_in_python():
    names = re.compile(r"(^|[^a-z])(e?kfac|shampoo|tkfac|foof|logra)([^a-z]|$)", re.IGNORECASE)
    for path in (ROOT / "curvlang").rglob("*.py"):
        if path.name == "kronfluence_words.py":  # another tool's words in its own files
            continue
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        assert not names.search(code), path


def test_one_version():
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
