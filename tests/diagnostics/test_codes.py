"""Codes, their pages and their uses are one set; each code is reported by one room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from curvlang.diagnostics.codes import Code

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/diagnostics"
TEXTS = {
    path.relative_to(ROOT): path.read_text("utf-8")
    for folder in ("curvlang", "cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != ROOT / "curvlang/diagnostics/codes.py"
}
TREES = {path: ast.parse(text) for path, text in TEXTS.items()}


def room_of(path):
    parts = path.parts
    return parts[0] if parts[0] == "cli" else parts[1].removesuffix(".py")


def reported(tree) -> Iterator[str]:
    """Codes that a tree reports: those that are passed to something, not those that are compared."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = [*node.args, *(k.value for k in node.keywords)]
            yield from (x.attr for x in given if is_code(x))


def is_code(node) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Code"
    )


def written(tree) -> Iterator[str]:
    """Codes written as texts, where a name that the type checker knows is asked for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\AE[01]\d{3}\Z", node.value)


def test_codes_and_pages_are_one_set():
    assert {path.stem for path in PAGES.glob("E*.md")} == {code.value for code in Code}


def test_every_code_is_reported_somewhere():
    assert {code for tree in TREES.values() for code in reported(tree)} == set(Code.__members__)


@pytest.mark.parametrize("code", Code)
def test_the_page_bears_the_title(code):
    assert code.name == code.value
    head, _, _ = (PAGES / f"{code}.md").read_text("utf-8").partition("\n")
    assert head == f"# {code}: {code.meaning}"


def test_a_code_is_reported_by_its_room_alone():
    found = {(code, room_of(path)) for path, tree in TREES.items() for code in reported(tree)}
    assert found == {(code.name, code.room) for code in Code}


def test_no_code_is_written_as_a_text():
    assert {str(path): [*written(tree)] for path, tree in TREES.items() if [*written(tree)]} == {}


def test_two_codes_do_not_mean_the_same():
    assert len({code.meaning for code in Code}) == len(Code)


def test_the_laws_can_fail():
    tree = ast.parse('raise refusal(Code.E0101, "…")\nfound = x in (Code.E0102,)\nf("E0103")')
    assert [*reported(tree)] == ["E0101"]
    assert [*written(tree)] == ["E0103"]
