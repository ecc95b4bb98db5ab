"""What the documents show is run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from curvlang.language import check_text
from curvlang.version import VERSION

ROOT = Path(__file__).parents[2]


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_readme_runs():
    for code in blocks("README.md", "python"):
        scope: dict[str, object] = {}
        exec(code, scope)


@pytest.mark.parametrize("name", ["README.md", "docs/language.md"])
def test_the_specs_shown_check(name):
    found = blocks(name, "cv")
    assert found
    for text in found:
        assert check_text(text) == []


@pytest.mark.parametrize(
    "name",
    ["curvlang.diagnostics.source", "curvlang.ir.indices", "curvlang.language.formatter"],
)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_approximation_is_named_in_python():
    names = re.compile(r"(^|[^a-z])(e?kfac|shampoo|tkfac|foof|logra)([^a-z]|$)", re.IGNORECASE)
    for path in (ROOT / "curvlang").rglob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        assert not names.search(code), path


def test_one_version():
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
