"""The table of typical mistakes is the parser's help: every snippet meets its own rule."""

from __future__ import annotations

import pytest

from curvlang.diagnostics.render import render
from curvlang.diagnostics.source import Source
from curvlang.language.syntax import parser
from curvlang.language.syntax.mistakes import MISTAKES


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
def test_every_mistake_meets_its_own_rule(mistake, monkeypatch):
    met = []

    def explain(found):
        met.append(next(m.name for m in MISTAKES if m.rule(found) is not None))
        diagnostic = mistake.rule(found)
        assert diagnostic is not None, found
        return diagnostic

    monkeypatch.setattr(parser, "explain", explain)
    source = Source("x.cv", mistake.example)
    _, problems = parser.parse(source)
    assert met[0] == mistake.name
    assert problems[0].help
    span = problems[0].labels[0].span
    assert 0 <= span.start <= span.end <= len(mistake.example)
    assert problems[0].headline in render(problems[:1])


def test_names_are_distinct():
    assert len({m.name for m in MISTAKES}) == len(MISTAKES)
