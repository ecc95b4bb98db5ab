"""The tables in every width, and the page: three figures, nothing from outside, nothing unescaped."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from curvlang.reporting.html import to_html
from curvlang.reporting.tables.table import show, to_text
from tests.reporting.example import EXAMPLES, digits, hostile


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(name, width):
    for line in to_text(EXAMPLES[name](), width).splitlines():
        assert len(line) <= width


def test_the_table_has_all_four_errors_with_shares_and_says_its_damping():
    text = to_text(digits(), 200)
    (head,) = [x for x in text.splitlines() if x.startswith("step") and "forward" in x]
    order = re.findall(r"\S+", head)
    assert [order[k + 1] for k, x in enumerate(order) if x in ("forward", "inverse", "influence")] \
        == ["share"] * 3  # fmt: skip
    assert order.count("share") == 4
    assert "LDS" in order
    assert "95 % interval" in head
    assert "compared at λ = .01" in text


def test_a_console_of_ascii_gets_ascii():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show(digits(), Console(file=file, width=100, force_terminal=False))
    file.seek(0)
    assert "lambda = .01" in file.read()


class Page(HTMLParser):
    """Tags in order, and whether each one that was opened is closed."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_stands_alone(name):
    text = to_html(EXAMPLES[name](), spec_text="curvature x = hessian", provenance={"seed": 0})
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "img"}
    for _, attributes in page.tags:
        assert not any(k.startswith("on") for k in attributes)
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert "@import" not in text
    assert "nan" not in re.sub(r"<style.*?</style>", "", text, flags=re.S).lower().split()


def test_three_figures_with_their_names():
    text = to_html(digits())
    for name in ("Error along the chain", "LDS against λ", "LDS against forward error"):
        assert re.search(rf'<svg role="img" aria-label="{name}', text)


def test_names_are_text_and_never_markup():
    text = to_html(hostile(), spec_text="</pre><script>x</script>")
    assert "<script" not in text
    assert "onerror=y>" not in text


def test_the_total_is_said_once():
    text = to_html(digits(), times={"fit": 1.0, "LDS": 2.0, "total": 4.0})
    assert text.count(">total<") == 1
    assert to_html(digits(), times={"fit": 1.0, "LDS": 2.0}).count(">total<") == 1
