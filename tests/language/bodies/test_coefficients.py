"""Numbers of formulas that are not finite are refused where they stand."""

import pytest

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.language import check_text, loads

TEXT = """transform only(d: float = 0.0, e: float = 1.0) {{
  needs a[n,t,i]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  yield C[o,i,o',i'] = identity[o,o'] * ({formula})
}}
curvature mine = block_ggn |> only{given}
"""
A = "A[i,i']"


def text(formula, given=""):
    return TEXT.format(formula=formula, given=given)


BROKEN = {
    f"1 / 0 * {A}": "1 / 0",
    f"{A} / 0": "A[i,i'] / 0",
    f"log(0) * {A}": "log(0)",
    f"exp(1000) * {A}": "exp(1000)",
    f"sqrt(0 - 1) * {A}": "sqrt(0 - 1)",
    f"(0 - 1)^(1/2) * {A}": "(0 - 1)^(1/2)",
    f"0^(-1) * {A}": "0^(-1)",
    f"1e308 * 10 * {A}": "1e308 * 10",
    f"1e200 * {A} * 1e200": f"1e200 * {A} * 1e200",
    f"(1e200 * {A})^2": f"(1e200 * {A})^2",
    f"{A} / (1 - 1)": f"{A} / (1 - 1)",
    f"{A} + 0 * log(0) * {A}": "log(0)",
    f"max(1 / 0, 1) * {A}": "1 / 0",
}


@pytest.mark.parametrize("formula", BROKEN)
def test_the_innermost_is_named(formula):
    with pytest.raises(SpecError) as caught:
        loads(text(formula))
    found = [d for d in caught.value.diagnostics if d.code == "E0423"]
    assert [d.labels[0].span.text.strip("()") for d in found] == [BROKEN[formula].strip("()")]


@pytest.mark.parametrize(
    ("formula", "given"),
    [
        (f"{A} / d", ""),
        (f"log(d) * {A}", "(d = 0)"),
        (f"exp(e) * {A}", "(e = 1000)"),
        (f"(1 / d - 1 / d) * {A}", ""),
        (f"d^(0 - e) * {A}", ""),
    ],
)
def test_parameters_are_read_with_their_values(formula, given):
    (found,) = [d for d in check_text(text(formula, given), "mine.cv") if d.code == "E0423"][:1]
    assert [label.message for label in found.labels][1] == "with these arguments"


@pytest.mark.parametrize(
    ("formula", "given"),
    [
        (f"{A} / d", "(d = 0.5)"),
        (f"1e200 * {A} / 1e200", ""),
        (f"(0 - 2 * {A})^2", ""),
        (f"exp(0 - 1000) * {A}", ""),
        (f"{A} / (trace(A) - trace(A))", ""),
        (f"log({A} - 100)", ""),
        (f"sqrt(4) * {A} / log(2) * max(1, 0) * abs(0 - 1)", ""),
    ],
)
def test_finite_numbers_are_taken(formula, given):
    loads(text(formula, given))


def test_a_branch_that_is_not_taken_is_not_looked_at():
    loads(
        "transform either(d: float = 0.0, way: {plain, divided} = plain) {\n  needs a[n,t,i]\n"
        "  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\n  when way == plain {\n    B[i,i'] = A[i,i']\n"
        "  } else {\n    B[i,i'] = A[i,i'] / d\n  }\n"
        "  yield C[o,i,o',i'] = identity[o,o'] * B[i,i']\n}\n"
        "curvature mine = block_ggn |> either\n"
    )
