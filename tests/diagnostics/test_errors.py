"""Errors in Python: the whole diagnostic as their text, in notebooks too, and across processes."""

from __future__ import annotations

import copy
import pickle

import pytest

import curvlang as cv
from curvlang.diagnostics.render import render
from curvlang.models.tracing.watching import OutsideError

TEXT = "curvature x = hessian |> kronecker_factor"


def caught():
    with pytest.raises(cv.SpecError) as found:
        cv.loads(TEXT)
    return found.value


def test_the_text_of_an_error_is_the_whole_diagnostic():
    error = caught()
    assert str(error) == render(error.diagnostics)
    for word in ("E0207", "--> <text>:1:26", "^^^^", "help:"):
        assert word in str(error)


def test_a_notebook_shows_it_in_colour_and_no_calls():
    lines = caught()._render_traceback_()
    assert lines == render(caught().diagnostics, color=True).split("\n")
    assert not any("Traceback" in line for line in lines)


def test_errors_cross_processes():
    error = caught()
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(again) == str(error)
    outside = OutsideError({"a": "why"})
    again = pickle.loads(pickle.dumps(outside))
    assert (again.layers, str(again)) == (outside.layers, str(outside))
