"""Numbers as text: never NaN, never a stray sign, and close to what they stand for."""

from __future__ import annotations

import doctest
import importlib
import math
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curvlang.diagnostics.amounts import size
from curvlang.evaluation.statistics.interval import Interval
from curvlang.reporting import notation as n

THREE_DIGITS = 0.5e-2
"""Relative: three significant digits are off by at most half a unit of the third, here of 1.00."""
TWO_DIGITS = 0.5e-1
"""Relative, for the scientific form with one decimal."""

ANY = st.floats(allow_nan=True, allow_infinity=True)


def number(text: str) -> float:
    """Read a number back as a person would."""
    return float(text.replace(n.MINUS, "-").replace("∞", "inf").replace(" %", ""))


@pytest.mark.parametrize(
    "module",
    [
        "evaluation.result_file",
        "reporting.figures.scatter",
        "reporting.figures.style",
        "reporting.html",
        "reporting.notation",
        "reporting.tables.table",
    ],
)
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"curvlang.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


@settings(deadline=None)
@given(ANY)
def test_quantity_reads_back(value: float) -> None:
    # Three digits of the largest floats round up to infinity.
    assume(not 1e308 < abs(value) < math.inf)
    text = n.quantity(value)
    assert "nan" not in text.lower()
    assert "-" not in text.replace("e-", "")
    if math.isnan(value):
        assert text == n.MISSING
    elif math.isinf(value) or value == 0:
        assert number(text) == value
    else:
        tolerance = TWO_DIGITS if "e" in text else THREE_DIGITS
        assert math.isclose(number(text), value, rel_tol=tolerance)


@settings(deadline=None)
@given(st.floats(-1, 1))
def test_correlation_has_three_decimals_and_no_negative_zero(value: float) -> None:
    text = n.correlation(value)
    assert re.fullmatch(rf"{n.MINUS}?(1\.000|\.\d{{3}})", text)
    assert text != n.MINUS + ".000"
    assert number(text) == pytest.approx(value, abs=0.5001e-3)


@settings(deadline=None)
@given(st.floats(-1e3, 1e3))
def test_share_always_has_its_sign(value: float) -> None:
    text = n.share(value)
    assert text[0] in {"+", n.MINUS}
    assert number(text) / 100 == pytest.approx(value, rel=5.1e-4, abs=5.1e-4)


@settings(deadline=None)
@given(st.floats(1e-12, 1e6))
def test_setting_is_short_and_near(value: float) -> None:
    text = n.setting(value)
    assert len(text) <= 8
    assert number(text) == pytest.approx(value, rel=THREE_DIGITS)


@pytest.mark.parametrize("text", [n.quantity, n.correlation, n.share])
def test_missing_numbers_are_a_dash(text: object) -> None:
    assert callable(text)
    assert text(None) == text(math.nan) == n.MISSING


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9996, "1.00"), (9.996, "10.0"), (99.96, "100"), (9999.6, "1.0e4"), (0.00099999, ".001")],
)
def test_rounding_up_changes_the_number_of_decimals(value: float, text: str) -> None:
    assert n.quantity(value) == text


def test_intervals_without_ends_are_the_estimate_alone() -> None:
    assert n.bounds(None) == n.bounds(Interval(0.5, math.nan, 0.6)) == n.MISSING
    assert n.estimate(Interval(math.nan, 0.1, 0.2)) == n.MISSING


def test_seconds_carry_into_minutes() -> None:
    assert n.duration(59.97) == "1 min 00 s"
    assert n.duration(3599.9) == "1 h 00 min"
    assert n.duration(0.99999) == "1.0 s"


def test_bytes_just_below_a_unit_keep_it() -> None:
    assert size(0) == "0 B"
    assert size(1023) == "1023 B"
    assert size(1024) == "1.0 KiB"
