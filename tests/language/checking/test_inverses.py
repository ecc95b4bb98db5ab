"""Inverse declarations and solver lines: what is read, what is refused and how it is shown."""

from __future__ import annotations

import pytest

from curvlang.diagnostics.diagnostic import Severity, SpecError
from curvlang.diagnostics.render import render
from curvlang.diagnostics.source import Source
from curvlang.language import check_text, inverse_text, load, loads, shipped
from curvlang.language.checking.inverses import shift
from curvlang.language.syntax.formatter import format_text
from curvlang.language.syntax.parser import parse

E = "evaluate ggn with tikhonov on digits {{ solve {} }}"
MISTAKES = {
    "three arguments": ("inverse x: s, g, a -> 1 / s", "E0732", "g, a -> …"),
    "per block twice": ("inverse x per block: g, a -> 1 / (g * a)", "E0732", "leave `per block` out"),
    "one name twice": ("inverse x(s = 1): s -> 1 / (s + 1)", "E0732", "first here"),
    "a binding twice": ("inverse x: s -> t where t = s, t = 2", "E0732", "another name"),
    "indices": ("inverse x: s -> sum[n] s", "E0730", "mean(s)"),
    "a delta": ("inverse x: s -> identity[i,i'] * s", "E0730", "without indices"),
    "a length": ("inverse x: s -> size[i] * s", "E0730", "without indices"),
    "an indexed name": ("inverse x: s -> s[i]", "E0730", "without indices"),
    "two for one": ("inverse x: s -> exp(s, s)", "E0733", "exp(s)"),
    "none for two": ("inverse x: s -> max()", "E0733", "max(s, 1e-3)"),
    "three for two": ("inverse x: s -> min(s, 1, 2)", "E0733", "one or two"),
    "a function of tensors": ("inverse x: s -> trace(s)", "E0316", "known:"),
    "a sum": ("inverse x: s -> sum(s)", "E0316", "mean"),
    "a misspelt function": ("inverse x: s -> sqr(s)", "E0316", "did you mean `sqrt`"),
    "where as function": ("inverse x: s -> where(s, 1, 2)", "E0316", "if x < y then"),
    "less as function": ("inverse x: s -> less(s, 1)", "E0316", "known"),
    "a misspelt name": ("inverse x(damping = 1): s -> 1 / (s + dampin)", "E0719", "did you mean `damping`"),
    "a later binding": ("inverse x: s -> t where t = u, u = s", "E0719", "`u`"),
    "a later parameter": ("inverse x(a = b, b = 1): s -> a * b * s", "E0719", "`b`"),
    "a name in a condition": ("inverse x: s -> if s < q then 1 else 2", "E0719", "`q`"),
    "a parameter of eigenvalues": ("inverse x(d = 2 * s): s -> s + d", "E0731", "mean(s)"),
    "an argument of eigenvalues": ("evaluate kfac with tikhonov(damping = s)", "E0731", "max(s)"),
    "an argument of another name": ("evaluate kfac with tikhonov(damping = mean(t))", "E0719", "`t`"),
    "an argument twice": ("evaluate kfac with tikhonov(damping = 1, damping = 2)", "E0702", "leave one out"),
    "an argument that is text": ('evaluate kfac with tikhonov(damping = "a")', "E0705", "damping = 0.1"),
    "a negative multiple": ("evaluate kfac with tikhonov_per_block(relative = -1)", "E0707", "0 or more"),
    "unknown solver": (E.format("cgs"), "E0734", "did you mean `cg`"),
    "unknown option": (E.format("cg(tol = 1e-3)"), "E0703", "`cg` has no parameter `tol`"),
    "option of the other": (E.format("cg(steps = 3)"), "E0703", "preconditioner"),
    "unknown preconditioner": (E.format("cg(preconditioner = ekfc)"), "E0206", "did you mean `ekfac`"),
    "a number as preconditioner": (E.format("cg(preconditioner = 1)"), "E0705", "name of a curvature"),
    "tolerance": (E.format("cg(tolerance = 1)"), "E0707", "between 0 and 1"),
    "iterations": (E.format("cg(iterations = 0)"), "E0707", "1 or more"),
    "rate": (E.format("neumann(lr = 0)"), "E0707", "above 0"),
    "batch": (E.format("neumann(batch = 1.5)"), "E0705", "`all` or a whole number"),
    "damping of the preconditioner": (E.format("cg(preconditioner_damping = none)"), "E0705", "`same`"),
    "cg with pseudo": ("evaluate ggn with pseudo on digits { solve cg }", "E0735", "tikhonov(damping"),
    "cg with absolute": ("evaluate ggn with absolute on digits { solve cg }", "E0735", "absolute"),
    "neumann with factors": ("evaluate kfac with factored on digits { solve neumann }", "E0735", "factored"),
    "a circle": ("curvature x = x |> diagonal\nevaluate ggn on digits { solve cg(preconditioner = x) }", "E0204", "hessian"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_diagnostic(name):
    text, code, words = MISTAKES[name]
    found = [d for d in check_text(text, "x.cv") if d.severity is Severity.ERROR]
    assert code in [d.code for d in found], [(d.code, d.headline) for d in found]
    assert words in render([d for d in found if d.code == code])
    assert all(d.help for d in found if d.code == code)


def test_a_solver_that_cannot_is_shown_at_both_places():
    text = "evaluate ggn with pseudo on digits {\n  solve cg(preconditioner = ekfac)\n}"
    assert render(check_text(text, "x.cv")) == (
        "error[E0735]: `cg` solves (C + λI) x = v, which is not what `pseudo` asks for\n"
        "  --> x.cv:2:9\n"
        "   |\n"
        " 1 | evaluate ggn with pseudo on digits {\n"
        "   |                   ------ is not `s -> 1 / (s + λ)`\n"
        " 2 |   solve cg(preconditioner = ekfac)\n"
        "   |         ^^^^^^^^^^^^^^^^^^^^^^^^^^ solves linear systems\n"
        "   |\n"
        "   = help: use `tikhonov(damping = …)`, or leave the solver out: other functions need the "
        "spectrum"
    )


DECLARED = """inverse mine(a = 1, b = a + mean(s)) per block: s -> if s > b then 1 / s else t * u
  where t = abs(s) + a, u = exp(-t)
curvature x = ggn
evaluate x with mine(a = 2) on digits {
  lds subsets = 4
}
evaluate x with tikhonov on digits {
  solve neumann(preconditioner = ekfac, lr = 0.5, batch = 32)
}
"""


def test_a_declaration_is_read_whole():
    spec = loads(DECLARED)
    mine = spec.inverses["mine"]
    assert (mine.arguments, mine.per_block) == (("s",), True)
    assert [name for name, _ in mine.bindings] == ["t", "u"]
    assert list(mine.parameters) == ["a", "b"]
    first, second = spec.evaluations
    assert first.solver is None
    assert second.solver is not None
    assert second.solver.name == "neumann"
    assert second.solver.arguments == {
        "preconditioner": "ekfac", "preconditioner_damping": "same",
        "lr": 0.5, "steps": 100, "batch": 32, "seed": 0,
    }  # fmt: skip
    assert second.solver.preconditioner is not None


def test_formatting_keeps_it():
    assert format_text(DECLARED) == DECLARED
    messy = DECLARED.replace("  where", "where").replace("per block: s", "per  block:s")
    assert parse(Source("x", messy))[0] == parse(Source("x", DECLARED))[0]
    assert format_text(messy) == DECLARED


@pytest.mark.parametrize(
    ("body", "solvable"),
    [
        ("s -> 1 / (s + d)", True),
        ("s -> 1 / (d + s)", True),
        ("t -> 1 / (t + 2 * d + mean(t))", True),
        ("s -> 1 / (s + u) where u = d ^ 2", True),
        ("s -> 1 / (s + u) where u = d * s", False),
        ("s -> 1 / (s + s)", False),
        ("s -> 1 / (s + s + d)", False),
        ("s -> 1 / s", True),
        ("s -> 2 / (s + d)", False),
        ("s -> 1 / (abs(s) + d)", False),
        ("s -> 1 / (s * d)", False),
        ("g, a -> 1 / (g + d)", False),
    ],
)
def test_what_linear_solvers_apply_to(body, solvable):
    (inverse,) = loads(f"inverse mine(d = 1): {body}").inverses.values()
    assert (shift(inverse) is not None) is solvable


def test_names_of_inverses_are_words_like_others():
    """`per`, `block` and `solve` stay names where nothing else can stand."""
    text = """transform per {
  needs a[n,t,i], g[n,r,t,o]
  per[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  block[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
  yield C[o,i,o',i'] = block[o,o'] * per[i,i']
}
curvature solve = block_ggn |> per"""
    assert check_text(text) == []


def test_what_ships():
    names = {x.name: x.doc for x in shipped() if x.kind == "inverse"}
    assert set(names) >= {
        "tikhonov", "tikhonov_per_block", "factored", "pseudo", "absolute", "truncated_training",
    }  # fmt: skip
    assert inverse_text("factored", "x").damping_open
    assert not inverse_text("pseudo", "x").damping_open


def test_a_curvature_that_a_file_evaluates_can_be_asked_for(tmp_path):
    path = tmp_path / "x.cv"
    path.write_text("evaluate ggn with tikhonov on digits { solve cg }\nevaluate kfac on digits")
    spec = load(f"{path}:ggn")
    assert [e.curvature for e in spec.evaluations] == ["ggn"]
    with pytest.raises(SpecError, match="E0206"):
        load(f"{path}:diagonal")
