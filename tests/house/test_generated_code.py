"""Generated code is data until it is printed: no file of the compiler reads text back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "curvlang"
FILES = sorted(f for room in ("compiler", "runtime", "costs") for f in (ROOT / room).rglob("*.py"))


def modules(text: str) -> set[str]:
    """Modules that a text imports, at its top or anywhere inside."""
    nodes = list(ast.walk(ast.parse(text)))
    whole = {x.name for node in nodes if isinstance(node, ast.Import) for x in node.names}
    return whole | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_text_is_read_back(path):
    found = modules(path.read_text("utf-8"))
    assert not found & {"re", "regex", "tokenize", "ast"}


def test_the_rule_sees_imports():
    assert modules("def f():\n    import re") == {"re"}
    assert modules("from re import sub\nimport os") == {"re", "os"}
