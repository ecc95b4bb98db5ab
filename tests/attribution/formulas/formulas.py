"""Scores as a spec states them, and how close numbers are."""

from __future__ import annotations

from curvlang.language import loads

CLOSE = 1e-9
"""Of the largest score, in float64."""


def formula(body, needs="u[q,p], v[n,p]"):
    """The score of a body."""
    found = loads(f"score mine {{\n  needs {needs}\n{body}\n}}", "mine.cv")
    return found.scores["mine"]


def assert_close(found, wanted, bound=CLOSE):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()
