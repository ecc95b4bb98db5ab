"""The pages of `docs/transformations` are what the specs, chains and plans say now."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from pathlib import Path

import pytest

from curvlang.language import check_text, shipped, shipped_files
from curvlang.language.syntax.formatter import format_text

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("make_pages")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def made(script):
    """Every page as the script makes it now."""
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


def test_the_tables_of_the_reference_are_those_of_the_code(script):
    text = (DOCS / "language.md").read_text("utf-8")
    assert script.renewed("language.md") == text, "renew them: python docs/make_pages.py"


def test_the_files_of_the_architecture_exist():
    text = (DOCS / "architecture.md").read_text("utf-8")
    files = re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE)
    assert len(files) > 100
    for name in files:
        assert (DOCS.parent / "curvlang" / name).exists(), name


def test_every_page_is_reached_from_the_index():
    text = (DOCS / "README.md").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in text, path.name


def test_the_reference_shows_every_construct_of_the_grammar():
    """Every keyword of the grammar is written somewhere in the reference or the page on laws."""
    text = (DOCS / "language.md").read_text("utf-8") + (DOCS / "testing.md").read_text("utf-8")
    grammar = (DOCS.parent / "grammars" / "curvlang.lark").read_text("utf-8")
    words = set(re.findall(r'"([a-z_]+)"', grammar))
    assert {w for w in words if not re.search(rf"\b{w}\b", text)} == set()


def test_the_specs_of_the_reference_check():
    text = (DOCS / "language.md").read_text("utf-8")
    for code in re.findall(r"```cv\n(.*?)```", text, re.DOTALL):
        assert [x for x in check_text(code) if x.severity.value == "error"] == [], code


def test_the_reference_names_what_ships():
    text = (DOCS / "language.md").read_text("utf-8")
    for x in shipped():
        if x.kind in (
            "stage",
            "transform",
            "inverse",
            "solver",
            "data",
            "model",
            "loss",
        ):
            assert re.search(rf"\b{x.name}\b", text), x.name


def anchors(path):
    """What the headings of a page are called in links."""
    titles = re.findall(r"^#+ (.*)", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", x.lower()).replace(" ", "-") for x in titles}


def test_links_between_documents_lead_somewhere():
    root = DOCS.parent
    for page in (*root.glob("*.md"), *DOCS.rglob("*.md")):
        text = re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", page.read_text("utf-8"), flags=re.DOTALL)
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", text):
            target = (page.parent / path) if path else page
            assert target.exists(), f"{page.name}: {path}"
            assert not anchor or anchor in anchors(target), f"{page.name}: #{anchor}"


def test_what_ships_and_what_the_documents_show_is_formatted():
    texts = [*shipped_files().values()]
    for path in (DOCS.parent / "README.md", *DOCS.glob("*.md")):
        found = re.findall(
            r"^( *)```cv\n(.*?)```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE
        )
        texts += [textwrap.dedent(code.rstrip(" ")) for _, code in found]
    assert [x for x in texts if format_text(x) != x] == []
