"""Inputs nobody means to write get a diagnostic: soon, at a true place, and never a traceback.

A longer run: `python -m pytest tests/language/test_fuzz.py --fuzz 100000`.
"""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark

from curvlang.diagnostics.render import render
from curvlang.diagnostics.source import Source
from curvlang.language import check_text
from curvlang.language.syntax.formatter import format_text
from curvlang.language.syntax.parser import parse
from curvlang.language.syntax.tables import build, grammar
from tests.language.fuzzing import (
    NASTY,
    assembled,
    assert_survives,
    editor_position,
    memory_of,
    mutated_bytes,
    mutated_tokens,
    reflowed,
)

MANY = settings(suppress_health_check=list(HealthCheck))
ANY = st.text(st.characters(codec=None, categories=None), max_size=120)


@pytest.mark.parametrize("make", [mutated_tokens, mutated_bytes, assembled])
def test_mutations_survive(make, request):
    for number in range(request.config.getoption("--fuzz") // 4):
        rng = random.Random(number)
        given_ = make(rng)
        try:
            assert_survives(given_)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\non {given_!r}") from error


def test_other_white_space_and_comments_change_nothing(request):
    for number in range(request.config.getoption("--fuzz") // 8):
        text, other = reflowed(random.Random(number))
        before, problems = parse(Source("x", text))
        after, again = parse(Source("x", other))
        assert not problems
        assert not again, render(again)
        assert after == before
        assert_survives(other)


def test_any_text_survives(request):
    @settings(MANY, max_examples=request.config.getoption("--fuzz") // 4)
    @given(ANY)
    def run(text):
        assert_survives(text)

    run()


KEPT = (
    "curvature x = weight_decay*kfac +   0.5*ggn",
    "evaluate kfac on digits { lds\n lds subsets = 5 }",
    "curvature x = 0/0 * ggn + 0 * 1/0 * kfac",
    "curvaturex = ggn",
    "law kfac equals ggn within1e-10",
    "transform t(w: {a, b} = a) {\n  when w == a { # }\n A[i] = a[n,t,i] } else { # {\n }\n}",
    "transform t(A: float = 2) { needs a[n,t,i]\n A[i] = mean[n,t] A * a[n,t,i]\n}",
    "curvature x = 1e999 * kfac",
    "task t { model mlp(hidden = [16] * 1e999) }",
    "transform t { s = 2^(1 / 0) + 2^(0 - 1)^0.5 + 10^400 }",
    "transform t { w[i] = random_normal[i](-1) + random_sign[i](0.5) }",
)
"""What random inputs found, kept."""


@pytest.mark.parametrize("text", KEPT)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_kept_inputs_survive(text, ending):
    assert_survives(text.replace("\n", ending) + ending)


def test_what_the_grammar_makes_survives(request):
    strategy = from_lark(build(grammar()), start="start")

    @settings(MANY, max_examples=request.config.getoption("--fuzz") // 8)
    @given(strategy)
    def run(text):
        assert_survives(text)

    run()


@pytest.mark.parametrize("piece", NASTY, ids=range(len(NASTY)))
def test_nasty_pieces_in_every_place(piece):
    for text in (
        piece,
        f"curvature x = {piece}",
        f"curvature {piece} = ggn",
        f"curvature x = hessian |> drop_residual(fisher = {piece})",
        f"transform t {{ needs a[n,t,i]\n A[{piece}] = a[n,t,i]^{piece} * {piece} }}",
        f"transform t(p: int = {piece}) {{ needs a[n,t,i]\n yield C[o,i,o',i'] = {piece} }}",
        f"inverse f(x = {piece}): s -> {piece} / s",
        f"evaluate kfac on digits(hidden = [{piece}], lr = {piece})",
        f"law kfac is {piece} when examples == {piece}",
        f'curvature x = "{piece}" ggn # {piece}',
        f"curvature x = ggn\n{piece}",
    ):
        assert_survives(text)


@pytest.mark.parametrize("depth", [150, 250, 5_000])
@pytest.mark.parametrize(
    "shape", ["({})", "-{}", "(-{})", "2 * {}", "{} + 1", "{}^2", "sqrt({})", "sum[n] {}", "(if s > 0 then {} else 1)"]
)  # fmt: skip
def test_deep_nesting_is_said(shape, depth):
    before, _, after = shape.partition("{}")
    expression = before * depth + "s" + after * depth
    limit = sys.getrecursionlimit()
    for text in (f"inverse f: s -> {expression}", f"transform t {{ z = {expression} }}"):
        assert_survives(text)
    assert sys.getrecursionlimit() == limit


def test_nested_blocks_and_definitions_are_said():
    for depth in (60, 5_000):
        assert_survives("transform t(w: {a, b}) {" + "when w == a {" * depth + "}" * depth + "}")
        assert_survives("curvature x = " + "(" * depth + "ggn" + ")" * depth)
        assert_survives("curvature x = ggn" + " |> flat" * depth)
        chain = "\n".join(f"curvature c{k + 1} = c{k} |> flat" for k in range(depth // 10))
        assert_survives(f"curvature c0 = ggn\n{chain}")


@pytest.mark.parametrize(
    ("text", "place", "caret"),
    [
        ("curvature x = hessian |> nothing", (1, 26), 25),
        ("# σ²\ncurvature x = hessian |> nothing", (2, 26), 25),
        ("# a\r\ncurvature x = hessian |> nothing", (2, 26), 25),
        ("# a\rcurvature x = hessian |> nothing", (2, 26), 25),
        ("# a\r\r\ncurvature x = hessian |> nothing", (3, 26), 25),
        ("\tcurvature x = hessian |> nothing", (1, 27), 29),
        ("curvature 曲率 = hessian |> nothing", (1, 27), 28),
        ('curvature x = "e\u0301" hessian |> nothing', (1, 31), 29),
        ("curvature e\u0301 = hessian", (1, 12), 11),
        ("\ufeffcurvature x = hessian |> nothing", (1, 26), 25),
        ("curvature x = hessian |>", (1, 24), 23),
        ("curvature x = hessian |>\n\n", (1, 24), 23),
        ("curvature x = hessian |>  # σ\r\n", (1, 24), 23),
    ],
)
def test_places_are_an_editors(text, place, caret):
    (found,) = check_text(text, "x.cv")
    label = found.labels[0]
    assert label.span.source.position(label.span.start) == place
    rows = render([found]).split("\n")
    assert rows[1].endswith(f":{place[0]}:{place[1]}")
    row = next(r for r in rows if r.lstrip(" |").startswith("^"))
    assert row.index("^") - row.index("|") - 2 == caret


def test_positions_at_every_offset():
    text = "a\r\n\tσ曲\r\n\rb\n\n"
    source = Source("x", text)
    for offset in range(len(text) + 1):
        assert source.position(offset) == editor_position(text, offset)
    assert [source.line(k) for k in range(1, 8)] == ["a", "\tσ曲", "", "b", "", "", ""]


def test_memory_stays_small():
    for text in (
        "curvature x = ggn |> " + "a" * 500_000,
        "x" * 200_000,
        "[" * 200_000,
        NASTY[0] * 1000,
    ):
        assert memory_of(text) < 60 * 2**20
    lists = "evaluate kfac on digits(hidden = [[1] * 9999] * 9999)"
    assert memory_of(lists) < 60 * 2**20
    assert len(render(check_text(lists))) < 2_000


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_are_one_language(ending):
    text = "# note\ncurvature x = hessian  # why\n  |> drop_residual\n"
    other = text.replace("\n", ending)
    assert parse(Source("x", other))[0] == parse(Source("x", text))[0]
    assert format_text(other) == text
