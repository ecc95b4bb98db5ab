"""The pages of `docs/transformations` are what the specs, chains and plans say now."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from curvlang.language import check_text, shipped_files

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def made():
    """Every page as the script makes it now."""
    spec = importlib.util.spec_from_file_location("make_pages", DOCS / "make_pages.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["make_pages"] = script
    spec.loader.exec_module(script)
    return script.pages()


def test_the_pages_are_what_the_script_makes(made):
    there = {p.name: p.read_text("utf-8") for p in (DOCS / "transformations").glob("*.md")}
    stale = sorted(n for n in {*made, *there} if made.get(n) != there.get(n))
    assert stale == [], "renew them: python docs/make_pages.py"


def test_every_spec_has_a_page_and_a_line(made):
    for name in set(shipped_files()) - {"prelude"}:
        assert f"{name}.md" in made
        assert f"({name}.md)" in made["README.md"], name


def test_links_lead_to_pages(made):
    for text in made.values():
        assert {f"{x}.md" for x in re.findall(r"\]\((\w+)\.md\)", text)} <= set(made)


def test_the_specs_of_the_pages_check(made):
    for text in made.values():
        for code in re.findall(r"```cv\n(.*?)```", text, re.DOTALL):
            assert [x for x in check_text(code) if x.severity.value == "error"] == [], code


def test_laws_stand_on_the_page_of_their_spec(made):
    page = made["tkfac.md"]
    assert "`trace(tkfac) equals trace(block_ggn)`" in page
    assert page.index("negative twins") < page.index("`tkfac differs_from kfac when examples > 1`")
