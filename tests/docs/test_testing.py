"""The page on laws: its specs check, its suite runs, its laws ship."""

from __future__ import annotations

import re
from pathlib import Path

from curvlang.language import check_text, load, shipped_files
from curvlang.language.checking.conditions import WORDS
from curvlang.language.law import MEASURES, PROPERTIES

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_specs_of_the_page_check():
    for text in blocks("cv"):
        assert check_text(text) == []


def test_the_suite_of_the_page_runs():
    (code,) = blocks("python")
    scope: dict[str, object] = {}
    # Hypothesis reads the file of a function again, and a page is not Python.
    exec(compile(code, "<docs/testing.md>", "exec"), scope)
    tests = [scope[name] for name in scope if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_page_names_every_word():
    for word in (*PROPERTIES, *MEASURES, *WORDS, *(w for ws in WORDS.values() for w in ws)):
        assert re.search(rf"\b{word}\b", PAGE), word


def test_the_laws_of_the_table_ship():
    texts = {law.text for name in shipped_files() for law in load(name).laws}
    table = PAGE[PAGE.index("## What is exact") :]
    for law in re.findall(r"`(\w+(?:\(\w+\))? (?:equals|closer_to|averages_to)[^`…]*)`", table):
        assert any(text.startswith(law) for text in texts), law
