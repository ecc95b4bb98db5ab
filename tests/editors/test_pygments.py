"""Installed, the lexer is found by its name, as documents name it."""

from __future__ import annotations

from importlib.metadata import entry_points

from pygments.lexers import get_lexer_by_name, get_lexer_for_filename


def test_the_entry_point():
    (found,) = [e for e in entry_points(group="pygments.lexers") if e.name == "curvlang"]
    assert found.load().__name__ == "CvLexer"
    assert get_lexer_by_name("cv").name == "curvlang"
    assert get_lexer_for_filename("x.cv").name == "curvlang"
