"""`repeat`: unrolled in order, checked in two rounds, refused with a place and a reason."""

from __future__ import annotations

import pytest

from curvlang.diagnostics.diagnostic import Severity
from curvlang.diagnostics.render import render
from curvlang.diagnostics.source import Source
from curvlang.language import check_text, loads
from curvlang.language.syntax.formatter import format_text
from curvlang.language.syntax.parser import parse

BODY = """A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  {}
  yield C[o,i,o',i'] = identity[o,o'] * A[i,i']"""
ROUND = "{ A[i,i'] = A[i,i'] / norm(A) }"


def transform(repeated, parameters=""):
    return f"transform w{parameters} {{\n  needs a[n,t,i]\n  {BODY.format(repeated)}\n}}\n"


def use(repeated, parameters="", arguments=""):
    chain = f"curvature x = block_ggn |> w{arguments}"
    return transform(repeated, parameters) + chain


def errors(text):
    return [d for d in check_text(text, "x.cv") if d.severity is Severity.ERROR]


MISTAKES = {
    "zero": (transform(f"repeat 0 {ROUND}"), "E0231", "0 is not a number of rounds"),
    "negative": (transform(f"repeat -2 {ROUND}"), "E0231", "-2 is not a number of rounds"),
    "fraction": (transform(f"repeat 2.5 {ROUND}"), "E0231", "2.5 is not a number of rounds"),
    "too many": (transform(f"repeat 101 {ROUND}"), "E0231", "101 rounds are too many"),
    "nested": (
        transform(f"repeat 20 {{ repeat 20 {ROUND} }}"),
        "E0231",
        "20 inside 20 rounds are too many",
    ),
    "unknown": (transform(f"repeat runds {ROUND}", "(rounds: int = 3)"), "E0232", "did you mean `rounds`"),
    "no parameters": (transform(f"repeat rounds {ROUND}"), "E0232", "add a parameter `rounds: int = 10`"),
    "a fractional parameter": (transform(f"repeat x {ROUND}", "(x: float = 3)"), "E0232", "declare `x: int"),
    "default": (transform(f"repeat k {ROUND}", "(k: int = 0)"), "E0231", "0 is not a number of rounds"),
    "given": (use(f"repeat k {ROUND}", "(k: int = 3)", "(k = 1000)"), "E0231", "given here"),
    "yield": (
        transform("repeat 2 { yield C[o,i,o',i'] = identity[o,o'] * A[i,i'] }"),
        "E0233",
        "after the closing brace",
    ),
    "space": (
        transform("repeat 2 { space k = 2\n B[i,k] = random_normal[i,k](0) }"),
        "E0233",
        "a `space` stands inside `repeat`",
    ),
    "project": (
        transform("B[i,k] = random_normal[i,k](0)\n repeat 2 { project i -> k with B[i,k] }"),
        "E0233",
        "a transform projects once",
    ),
    "yield in a choice": (
        transform("repeat 2 { when s == u { yield C[o,i,o',i'] = identity[o,o'] * A[i,i'] } }", "(s: {u, v} = u)"),
        "E0233",
        "repeated here",
    ),
    "no count": (transform(f"repeat {ROUND}"), "E0101", "number of rounds"),
    "changes its spaces": (
        transform("B[i,o] = mean[n,t] a[n,t,i] + 0 * size[o]\n repeat 2 { B[i,i'] = A[i,i'] * sum[o] B[i,o] }"),
        "E0305",
        "has the space",
    ),
    "read before it is made": (transform("repeat 2 { A[i,i'] = A[i,i'] * f\n f = 1 / norm(A) }"), "E0319", "`f`"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_diagnostic(name):
    text, code, words = MISTAKES[name]
    found = errors(text)
    assert code in [d.code for d in found], [(d.code, d.headline) for d in found]
    assert words in render([d for d in found if d.code == code])
    assert len(found) == len(set(found))
    # What may not be repeated is told once, not again as a clash with itself in the second round.
    assert not {"E0307", "E0325"} & {d.code for d in found}


def body_of(text):
    (chain,) = loads(text).curvatures.values()
    return chain.stages[-1].body


def test_rounds_are_the_statements_in_order():
    step = "A[i,i'] = A[i,i'] / norm(A)"
    written = use("\n".join([step] * 3))
    assert body_of(use(f"repeat 3 {ROUND}")) == body_of(written)
    assert body_of(use(f"repeat k {ROUND}", "(k: int = 1)", "(k = 3)")) == body_of(written)
    assert body_of(use(f"repeat k * 3 {ROUND}", "(k: int = 1)")) == body_of(written)
    six = use(f"repeat 2 {{ repeat 3 {ROUND} }}")
    assert body_of(six) == body_of(use("\n".join([step] * 6)))
    assert len(body_of(use(f"repeat 100 {ROUND}"))) == 102


def test_choices_and_repetitions_nest():
    chosen = "repeat 2 { when s == u { A[i,i'] = 2 * A[i,i'] } else { A[i,i'] = 3 * A[i,i'] } }"
    outside = "when s == u { repeat 2 { A[i,i'] = 2 * A[i,i'] } } else { repeat 2 { A[i,i'] = 3 * A[i,i'] } }"
    for word in "uv":
        bodies = [body_of(use(x, "(s: {u, v} = u)", f"(s = {word})")) for x in (chosen, outside)]
        assert bodies[0] == bodies[1]
        assert len(bodies[0]) == 4


@pytest.mark.parametrize("count", ["3", "k", "-1", "2 * k", "(k)"])
def test_formatting_keeps_the_meaning(count):
    text = transform(f"repeat   {count}{ROUND}", "(k: int = 2)")
    made = format_text(text)
    assert format_text(made) == made
    before, _ = parse(Source("x", text))
    after, problems = parse(Source("x", made))
    assert not problems
    assert before == after


def test_formatting_indents_the_rounds():
    text = "transform w { yield C[p,p'] = identity[p,p']\nrepeat -1 {\nx = 1\n}\n}"
    assert "  repeat -1 {\n    x = 1\n  }\n}" in format_text(text)


def test_names_may_begin_like_the_word():
    text = use("repeated = norm(A)\n  A[i,i'] = A[i,i'] / repeated")
    assert errors(text) == []
