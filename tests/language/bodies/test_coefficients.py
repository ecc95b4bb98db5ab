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


ACROSS = {
    f"B[i,i'] = 1e200 * {A}\n  V[i,i'] = 1e200 * B[i,i']": "1e200 * B[i,i']",
    "W = 1e200\n  V = W * W": "W * W",
    "W = 1 - 1\n  V = 1 / W": "1 / W",
    f"W = 0\n  V[i,i'] = {A} / W": f"{A} / W",
    "b[n,t,i] = 1e200 * a[n,t,i]\n  V[i] = mean[n,t] b[n,t,i]^2": "b[n,t,i]^2",
    f"B[i,i'] = sum[i''] 1e200 * {A} * A[i'',i']\n  V[i,i'] = B[i,i']^2": "B[i,i']^2",
}
"""Statements whose numbers meet in a later one."""
WRITTEN = {
    f"V[i,i'] = {A} * trace(A) * 1e308 * 1e10": f"{A} * trace(A) * 1e308 * 1e10",
    f"V[i,i'] = {A} / norm(A) * 1e308 * 1e10": f"{A} / norm(A) * 1e308 * 1e10",
    f"V[i,i'] = (1e308 * {A} + {A}) * 1e10": f"(1e308 * {A} + {A}) * 1e10",
    f"V[i,i'] = {A} * (1e308 * trace(A) / 1e-10)": "1e308 * trace(A) / 1e-10",
}
"""Numbers that meet with data between them."""
ROUNDED = {
    f"V[i,i'] = 1e-200 * {A} * 1e-200": f"1e-200 * {A} * 1e-200",
    f"V[i,i'] = (1e-200 * {A})^2": f"(1e-200 * {A})^2",
    f"V[i,i'] = 1e-200 * {A} / 1e200": f"1e-200 * {A} / 1e200",
    "b[n,t,i] = 1e-200 * a[n,t,i]\n  V[i] = mean[n,t] b[n,t,i] * b[n,t,i]": "b[n,t,i] * b[n,t,i]",
    f"V[i,i'] = {A} * 1e-200 * 1e-200": f"{A} * 1e-200 * 1e-200",
    f"V[i,i'] = 3 * mean[i''] {A} * A[i'',i'] * (1e-200 * 1e-200) / trace(A)": "1e-200 * 1e-200",
    f"V[i,i'] = {A} / (1e-200 * 1e-200)": "1e-200 * 1e-200",
    f"V[i,i'] = {A} * max(1e-200 * 1e-200, 0)": "1e-200 * 1e-200",
    f"V[i,i'] = {A} * sqrt(1e-200 * 1e-200 + 0)": "1e-200 * 1e-200",
    f"V[i,i'] = abs(1e-200 * {A} * 1e-200)": f"1e-200 * {A} * 1e-200",
    "E = 1e-200 * 1e-200\n  V = 1 + E": "1e-200 * 1e-200",
    f"V[i,i'] = {A} * exp(-800)": "exp(-800)",
    f"V[i,i'] = {A} * exp(-700) * exp(-40)": f"{A} * exp(-700) * exp(-40)",
    f"V[i,i'] = {A} * exp(-400) * exp(-400)": f"{A} * exp(-400) * exp(-400)",
    f"V[i,i'] = {A} * 1e-310": f"{A} * 1e-310",
    f"V[i,i'] = {A} * trace(A) * 1e-200 * 1e-200": f"{A} * trace(A) * 1e-200 * 1e-200",
    f"V[i,i'] = ({A} + 2 * {A}) * 1e-200 * 1e-200": f"({A} + 2 * {A}) * 1e-200 * 1e-200",
}


@pytest.mark.parametrize(
    ("code", "statements", "place"),
    [
        *(("E0423", *pair) for pair in (ACROSS | WRITTEN).items()),
        *(("E0346", *pair) for pair in ROUNDED.items()),
    ],
)
def test_numbers_of_statements_meet(code, statements, place):
    (found,) = check_text(text(A).replace("  yield", f"  {statements}\n  yield"), "mine.cv")
    assert (found.code, found.labels[0].span.text) == (code, place)


NORMALISED = (
    *(
        f"B[i,i'] = {A}\n  repeat 100 {{ B[i,i'] = {number} * B[i,i'] / {size} }}"
        for number in ("1e-4", "1e4")
        for size in ("norm(B)", "trace(B)", "(sum[i] B[i,i])")
    ),
    f"S[i,i'] = 1e-200 * {A}\n  Q[i,i'] = S[i,i'] / trace(S)\n  B[i,i'] = 1e-150 * Q[i,i']",
    f"S[i,i'] = 1e200 * {A}\n  S[i,i'] = S[i,i'] + S[i,i']\n  B[i,i'] = 1e200 * (S[i,i'] / S[i,i'])",
    f"S[i,i'] = 1e200 * {A}\n  W = trace(S)\n  B[i,i'] = 1e200 * (S[i,i'] * W^(0 - 1))",
    f"S[i,i'] = 1e200 * {A}\n  D[i,i'] = max(abs(S[i,i']), 1)\n  B[i,i'] = 1e200 * (S[i,i'] / D[i,i'])",
)
"""The scale of a tensor leaves it with what it is divided by."""
BESIDE = (
    f"B[i,i'] = {A} * (exp(-800) + 1)",
    f"B[i,i'] = {A} * exp(-800) + {A}",
    f"B[i,i'] = {A} * max(exp(-800), 2)",
    f"B[i,i'] = (1e200 * {A} + {A}) * {A} * 1e200",
    f"S[i,i'] = 1e200 * {A}\n  N = norm(S)\n  B[i,i'] = S[i,i'] / N",
    f"S = trace(A) * 1e200\n  B[i,i'] = {A} / S * 1e200",
)
"""A term that vanishes beside another, and numbers that stand inside a sum."""


@pytest.mark.parametrize("statements", [*NORMALISED, *BESIDE])
def test_what_is_divided_by_data_has_no_known_number(statements):
    used = text("B[i,i']").replace("  yield", f"  {statements}\n  yield")
    assert check_text(used, "mine.cv") == []


STAGES = """transform again {{
  needs C[o,i,o',i']
  yield C[o,i,o',i'] = {number} * C[o,i,o',i']
}}
curvature once = block_ggn |> again
curvature twice = once |> again
curvature halved = twice |> again |> again
"""


@pytest.mark.parametrize(("number", "code"), [("1e200", "E0423"), ("1e-200", "E0346")])
def test_numbers_of_stages_meet(number, code):
    found = check_text(STAGES.format(number=number), "mine.cv")
    assert [d.code for d in found] == [code] * len(found)
    span = found[0].labels[1].span
    assert span.source.position(span.start)[0] == 6
    assert check_text(STAGES.format(number="1e-20"), "mine.cv") == []


def test_stages_that_normalise_have_no_known_number():
    number = "1e-170 / (sum[o,i] C[o,i,o,i])"
    assert check_text(STAGES.format(number=number), "mine.cv") == []


def test_a_literal_that_rounds_to_zero():
    found, *_ = check_text(text(f"1e-400 * {A}"), "mine.cv")
    assert (found.code, found.labels[0].span.text) == ("E0346", "1e-400")
    assert check_text(text(f"0.0e-400 * {A} + max(4.9e-324, {A})"), "mine.cv") == []


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
    f"{A} * 1e308 * 1e10": f"{A} * 1e308 * 1e10",
    f"{A} + {A} * 1e308 * 1e10": f"{A} * 1e308 * 1e10",
    f"trace(A) / 0 * {A}": "trace(A) / 0",
    f"{A} / (0 * trace(A))": f"{A} / (0 * trace(A))",
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
        (f"exp(0 - 100) * {A}", ""),
        (f"{A} / (trace(A) - trace(A))", ""),
        (f"log({A} - 100)", ""),
        (f"{A} * (1e-200 * 1e-200 + 1)", ""),
        (f"{A} / (1 - 1e-200 * 1e-200)", ""),
        (f"{A} + 1e-200 * 1e-200 * {A}", ""),
        (f"max(1e-200 * 1e-200, 1) * {A}", ""),
        (f"exp(1e-200 * 1e-200) * {A}", ""),
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


SUMS = {
    "curvature x = 1e-320 * kfac + ekfac": "E0346",
    "curvature b = 1e-200 * kfac\ncurvature x = 1e-200 * b + ekfac": "E0346",
    "curvature b = 1e-200 * kfac + ekfac\ncurvature x = 1e-200 * b + ekfac": "E0346",
    "curvature b = 1e200 * kfac\ncurvature x = 1e200 * b": "E0423",
}


@pytest.mark.parametrize("given", SUMS)
def test_weights_of_sums_meet(given):
    (found,) = check_text(given, "mine.cv")
    assert found.code == SUMS[given]
    assert "`kfac`" in found.headline
    assert found.help
    for small in ("1e-20", "0"):
        fine = given.replace("1e-320", small).replace("1e-200", small).replace("1e200", small)
        assert check_text(fine, "mine.cv") == []
