"""What the table lets in: every kind of value against what looks like one."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language.checking.arguments import checked
from curvlang.language.registry import NAMED, SOLVERS, STAGES, Parameter
from curvlang.language.registry.common import COUNT, POSITIVE, SHARE
from curvlang.language.registry.kind_words import in_words
from curvlang.language.registry.kinds import (
    Anything,
    Choice,
    CurvatureName,
    Integer,
    Limits,
    NameList,
    NumberList,
    NumberOr,
    Real,
    String,
    Truth,
    misses,
    taken,
)

KINDS = [
    Anything(), Choice(("a", "b")), Choice(), CurvatureName(), Integer(), COUNT, NameList(),
    NumberList(COUNT), NumberList(POSITIVE, empty=False), NumberOr(COUNT, "all"), Real(), SHARE,
    String(), Truth(),
]  # fmt: skip
EVERY = {
    f"{name}.{key}": parameter
    for table in (STAGES, SOLVERS, *NAMED.values())
    for name, entry in table.items()
    for key, parameter in entry.parameters.items()
}


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        (Integer(), 3.0, 3),
        (Integer(), np.int64(3), 3),
        (Integer(), np.float32(3), 3),
        (Integer(), torch.tensor(3), 3),
        (Integer(), np.array([3]), 3),
        (Real(), 3, 3.0),
        (Real(), np.float32(0.5), 0.5),
        (Real(), torch.tensor(0.5), 0.5),
        (Real(), Fraction(1, 2), 0.5),
        (Truth(), np.bool_(True), True),
        (NumberList(COUNT), 16, (16,)),
        (NumberList(COUNT), [4, np.int32(2)], (4, 2)),
        (NumberList(COUNT), torch.tensor([4, 2]), (4, 2)),
        (NumberList(COUNT), [], ()),
        (NumberList(POSITIVE), np.array([1, 2]), (1.0, 2.0)),
        (NameList(), "y", ("y",)),
        (NameList(), ["a", "b"], ("a", "b")),
        (NumberOr(COUNT, "all"), "all", "all"),
        (NumberOr(COUNT, "all"), 5.0, 5),
        (Choice(("a", "b")), "a", "a"),
    ],
)
def test_values_are_taken_as_their_kind_has_them(kind, given, wanted):
    found = checked("x", given, Parameter(kind))
    assert found == wanted
    assert type(found) is type(wanted)
    parts = found if isinstance(found, tuple) else (found,)
    wholes = wanted if isinstance(wanted, tuple) else (wanted,)
    assert [type(x) for x in parts] == [type(x) for x in wholes]


@pytest.mark.parametrize(
    ("kind", "given", "code"),
    [
        (Integer(), True, "E0705"),
        (Integer(), np.bool_(True), "E0705"),
        (Integer(), "3", "E0705"),
        (Integer(), 2.5, "E0705"),
        (Integer(), nan, "E0705"),
        (Integer(), inf, "E0705"),
        (Integer(), None, "E0705"),
        (Integer(), [3, 4], "E0705"),
        (Integer(), 2**63, "E0707"),
        (Integer(), -(10**400), "E0707"),
        (COUNT, 0, "E0707"),
        (COUNT, -1, "E0707"),
        (Real(), False, "E0705"),
        (Real(), "0.1", "E0705"),
        (Real(), b"0.1", "E0705"),
        (Real(), 1j, "E0705"),
        (Real(), [0.1, 0.2], "E0705"),
        (Real(), nan, "E0707"),
        (Real(), -inf, "E0707"),
        (Real(), np.float64("nan"), "E0707"),
        (Real(), 10**400, "E0707"),
        (SHARE, 0, "E0707"),
        (SHARE, 1, "E0707"),
        (POSITIVE, 0.0, "E0707"),
        (Truth(), 1, "E0705"),
        (Truth(), "true", "E0705"),
        (NumberList(COUNT), [4, True], "E0705"),
        (NumberList(COUNT), [[4], [2]], "E0705"),
        (NumberList(COUNT), [4, 0], "E0707"),
        (NumberList(COUNT), "44", "E0705"),
        (NumberList(COUNT, empty=False), [], "E0705"),
        (NumberList(POSITIVE), torch.tensor([1.0, inf]), "E0707"),
        (NameList(), [], "E0705"),
        (NameList(), ["a", 1], "E0705"),
        (NumberOr(COUNT, "all"), "al", "E0705"),
        (NumberOr(COUNT, "all"), 0, "E0707"),
        (Choice(("a", "b")), "c", "E0706"),
        (Choice(("a", "b")), 1, "E0705"),
        (String(), 1, "E0705"),
        (CurvatureName(), ("ekfac",), "E0705"),
    ],
)
def test_what_only_looks_like_a_value_is_refused(kind, given, code):
    with pytest.raises(SpecError) as caught:
        checked("x", given, Parameter(kind))
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert found.headline.startswith("`x = ")
    assert found.help


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_kind_is_one(kind):
    found = taken(in_words(kind).example, kind)
    assert not misses(found, kind)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(1), "1 or more"),
        (Limits(0, above=True), "above 0"),
        (Limits(0, 1, above=True, below=True), "between 0 and 1"),
        (Limits(0, 1), "from 0 to 1"),
        (Limits(0, 1, below=True), "at least 0, below 1"),
        (Limits(0, 1, above=True), "above 0, at most 1"),
        (Limits(most=3), "at most 3"),
        (Limits(most=3, below=True), "below 3"),
        (Limits(), "finite"),
    ],
)
def test_limits_say_where_they_hold(limits, text):
    assert str(limits) == text
    assert in_words(Real(limits)).limits == ("" if limits == Limits() else text)
    for end, excluded in ((limits.least, limits.above), (limits.most, limits.below)):
        if abs(end) < inf:
            assert limits.hold(end) is not excluded


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(),
    st.binary(), st.sampled_from([2**70, -(2**70), 10**400, np.float32("inf"), np.array([[1]]), {}]),
)  # fmt: skip
VALUES = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(VALUES, st.sampled_from(sorted(EVERY)))
def test_any_value_of_any_parameter_is_taken_or_refused(value, name):
    """Never a traceback, and what is taken once is taken again as it is."""
    parameter = EVERY[name]
    found, refused = None, ()
    try:
        found = checked("x", value, parameter)
    except SpecError as error:
        refused = error.diagnostics
    assert {d.code for d in refused} <= {"E0705", "E0706", "E0707"}
    assert refused or checked("x", found, parameter) == found
