"""What ships checks, formats and prints back; every mistake has its diagnostic."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlang.diagnostics.diagnostic import Severity, SpecError
from curvlang.diagnostics.render import render
from curvlang.diagnostics.source import Source
from curvlang.language import check_text, load, loads, shipped, shipped_files
from curvlang.language.syntax import nodes as syntax
from curvlang.language.syntax.formatter import format_source, format_text
from curvlang.language.syntax.parser import parse

T = "transform t {{ needs a[n,t,i], g[n,r,t,o]\n{} }}"
Y = "yield C[o,i,o',i'] = identity[o,o'] * identity[i,i']"
P = "transform t {{ needs a[n,t,i]\nspace k = 2\nX[i,k] = random_normal[i,k](0)\nP[i,k] = orthonormal(X)\n{} }}"
MISTAKES = {
    "misspelt stage": ("curvature x = hessian |> drop_residuals", "E0209", "did you mean `drop_residual`"),
    "unknown source": ("curvature x = hessain |> drop_residual", "E0206", "did you mean `hessian`"),
    "no source": ("curvature x = drop_residual |> block_diagonal", "E0205", "hessian |> drop_residual"),
    "out of order": ("curvature x = hessian\n  |> kronecker_factor", "E0207", "insert them before line 2"),
    "no residual dropped": ("curvature x = hessian |> block_diagonal |> kronecker_factor", "E0207", "before `block_diagonal`"),
    "needs factors": ("curvature x = block_ggn |> eigen_correct", "E0207", "`kronecker_factor` defines `A`"),
    "twice": ("curvature x = block_ggn |> block_diagonal", "E0210", "order"),
    "residual late": ("curvature x = block_hessian |> drop_residual", "E0210", "order"),
    "curvature as stage": ("curvature x = hessian |> ggn", "E0208", "start a chain from it"),
    "circle": ("curvature x = y\ncurvature y = x", "E0204", "x → y → x"),
    "itself": ("curvature x = x |> drop_residual", "E0204", "hessian"),
    "defined twice": ("curvature x = ggn\ncurvature x = kfac", "E0201", "another name"),
    "free index": (T.format("A[i,i'] = mean[n] a[n,t,i] * a[n,t,i']\n" + Y), "E0303", "sum[t]"),
    "left only": (T.format("A[i,o] = mean[n,t] a[n,t,i]\n" + Y), "E0304", "leave it out"),
    "unknown index": (T.format("A[i,z] = mean[n,t] a[n,t,i]\n" + Y), "E0304", "z"),
    "other spaces": (T.format("A[o] = mean[n,t] a[n,t,o]\n" + Y), "E0305", "write `i` there"),
    "too few": (T.format("A[i] = mean[n] a[n,i]\n" + Y), "E0305", "3 indices"),
    "unknown tensor": (T.format("A[i] = mean[n,t] q[n,t,i]\n" + Y), "E0319", "q"),
    "not needed": (T.format("A[o] = mean[n,t] e[n,t,o]\n" + Y), "E0319", "add it to `needs`"),
    "empty reduction": (T.format("A[i] = mean[n,t] sum[o] a[n,t,i]\n" + Y), "E0315", "free inside"),
    "unlike sums": (T.format("A[n,t,i,o] = a[n,t,i] + sum[r] g[n,r,t,o]\n" + Y), "E0317", "same free indices"),
    "exponent": (T.format("A[i] = mean[n,t] a[n,t,i]^a[n,t,i]\n" + Y), "E0318", "power(A, 1/2)"),
    "repeated": (T.format("A[i,i] = mean[n,t] a[n,t,i]\n" + Y), "E0320", "prime"),
    "function inside": (T.format("A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nB[i,i'] = 2 * inv(A)\n" + Y), "E0308", "then use"),
    "unknown function": (T.format("A[i] = mean[n,t] foo(a[n,t,i])\n" + Y), "E0316", "foo"),
    "not square": (T.format("A[i,o] = mean[n] sum[r,t] g[n,r,t,o] * a[n,t,i]\nV[i,k], s[k] = eigh(A)\n" + Y), "E0306", "square"),
    "no yield": (T.format("A[i] = mean[n,t] a[n,t,i]"), "E0219", "once"),
    "yield form": (T.format("yield C[o,i] = mean[n,t] sum[r] g[n,r,t,o] * a[n,t,i]"), "E0302", "o',i'"),
    "space without a length": (T.format("X[i,k] = random_normal[i,k](0)\n" + Y), "E0304", "declare it: `space k = 16`"),
    "space taken": (T.format("space t = 3\n" + Y), "E0307", "shared position"),
    "space twice": (T.format("space k = 3\nspace k = 4\n" + Y), "E0307", "in use already"),
    "length of data": (T.format("x = mean[n,t,i] a[n,t,i]\nspace k = x\n" + Y), "E0323", "min(rank, size[i])"),
    "length of a mean": (T.format("space k = mean[n,t,i] a[n,t,i]\n" + Y), "E0323", "computed from data"),
    "letter of another length": (T.format("A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nG[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']\nV[i,k], _[k] = eigh(A)\nU[o,k], _[k] = eigh(G)\n" + Y), "E0307", "another length"),
    "not a matrix": (T.format("M[r,o,i] = mean[n,t] g[n,r,t,o] * a[n,t,i]\nQ[r,o,i] = orthonormal(M)\n" + Y), "E0306", "`M[r,o,i]` with a `|` inside"),
    "other groups": (T.format("M[r,o,i] = mean[n,t] g[n,r,t,o] * a[n,t,i]\nQ[r,o,i] = orthonormal(M[o | i])\n" + Y), "E0327", "each of them once"),
    "result of groups": (T.format("M[r,o,i] = mean[n,t] g[n,r,t,o] * a[n,t,i]\nQ[r,o,i] = orthonormal(M[o,i | r])\n" + Y), "E0305", "expected `o`"),
    "unequal groups": (T.format("M[r,o,i] = mean[n,t] g[n,r,t,o] * a[n,t,i]\nV[o,i,k], s[k] = eigh(M[o,i | r])\n" + Y), "E0306", "rows and columns differ"),
    "bar in a product": (T.format("A[i] = mean[n,t] a[n,t | i]\n" + Y), "E0328", "function's argument"),
    "seed of data": (T.format("space k = 2\nx = mean[n,t,i] a[n,t,i]\nX[i,k] = random_normal[i,k](x)\n" + Y), "E0309", "a number or a parameter"),
    "projected example": (P.format("project n -> k with P[i,k]"), "E0324", "training example"),
    "projected into a letter in use": (P.format("project i -> o with P[i,k]"), "E0307", "declare a space"),
    "projected from another space": (P.format("project o -> k with P[i,k]"), "E0305", "over `o,k`"),
    "projected twice": (P.format("project i -> k with P[i,k]\nproject i -> k with P[i,k]"), "E0325", "first here"),
    "projected by what is not orthonormal": (P.format("project i -> k with X[i,k]"), "E0326", "Q[i,k] = orthonormal(X)"),
    "projects and yields": (P.format("project i -> k with P[i,k]\n" + Y), "E0221", "after this one"),
    "projected before the blocks": ("curvature x = ggn |> project_random", "E0216", "after `block_diagonal"),
    "projected after the blocks": ("curvature x = block_ggn |> project_model", "E0216", "before `block_diagonal"),
    "factors of another space": ("curvature x = kfac |> project_random |> eigen_correct", "E0220", "compute `A` again between `project_random` and `eigen_correct`"),
    "blocks of a projection": ("curvature x = ggn |> project_model |> block_diagonal", "E0210", "order"),
    "one space under two letters": (P.format("project i -> k with P[i,k]") + "\ntransform u { needs a[n,t,i], P[z,y]\n" + Y + " }\ncurvature x = block_ggn |> t |> u", "E0215", "the same space as `i`"),
    "word": ("curvature x = hessian |> drop_residual(fisher = exakt)", "E0706", "did you mean `exact`"),
    "range": ("curvature x = hessian |> drop_residual(fisher = mc, samples = 0)", "E0707", "1 or more"),
    "type": ("curvature x = hessian |> drop_residual(fisher = mc, samples = 1.5)", "E0705", "whole number"),
    "parameter": ("curvature x = hessian |> drop_residual(fischer = mc)", "E0703", "did you mean `fisher`"),
    "negative damping": ("evaluate kfac with tikhonov(damping = -1) on digits", "E0707", "0 or more"),
    "unknown inverse": ("evaluate kfac with tikonov on digits", "E0712", "did you mean `tikhonov`"),
    "unknown task": ("evaluate kfac on digit", "E0711", "did you mean `digits`"),
    "keep 0": ("evaluate kfac on digits { lds keep = 0 }", "E0707", "between 0 and 1"),
    "keep 1.5": ("evaluate kfac on digits { lds keep = 1.5 }", "E0707", "between 0 and 1"),
    "subsets 0": ("evaluate kfac on digits { lds subsets = 0 }", "E0707", "2 or more"),
    "epochs": ("evaluate kfac on digits(epochs = -1)", "E0707", "0 or more"),
    "task parameter": ("evaluate kfac on digits(epoch = 1)", "E0703", "did you mean `epochs`"),
    "missing value": ("evaluate kfac with truncated_training(lr = 1) on digits", "E0704", "steps"),
    "character": ("curvature x = hessian ? ggn", "E0102", "`?`"),
    "missing end": ("transform t { needs a[n,t,i]", "E0103", "close the block"),
    "pipe": ("curvature x = hessian | ggn", "E0102", "|>"),
    "implicit product": (T.format("A[i] = mean[n,t] 2 a[n,t,i]\n" + Y), "E0104", "between them"),
    "empty": ("   \n", "E0112", "defines a curvature"),
    "comment only": ("# nothing\n", "E0106", "defines nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_diagnostic(name):
    text, code, words = MISTAKES[name]
    found = [d for d in check_text(text, "x.cv") if d.severity is Severity.ERROR]
    assert code in [d.code for d in found], [(d.code, d.headline) for d in found]
    assert words in render([d for d in found if d.code == code])


def test_the_rendering_is_exact():
    text = "# a\n# b\ncurvature x = hessian\n  |> kronecker_factor\n"
    (found,) = check_text(text, "specs/broken.cv")
    assert render([found]) == (
        "error[E0207]: `kronecker_factor` needs `g[n,r,t,o]`, which no stage before it defines\n"
        "  --> specs/broken.cv:4:6\n"
        "   |\n"
        " 4 |   |> kronecker_factor\n"
        "   |      ^^^^^^^^^^^^^^^^ needs per-layer Gauss–Newton columns\n"
        "   |\n"
        "   = help: `drop_residual` followed by `block_diagonal(by = layer)` defines `g`; "
        "insert them before line 4"
    )


def test_all_errors_are_reported_at_once():
    text = "curvature x = hessian |> a\ntransform u { yield C[p,p'] = H[p,p'] \ncurvature y = hessian |> b"
    assert len({d.labels[0].span.start for d in check_text(text)}) >= 3


@pytest.mark.parametrize("name", list(shipped_files()))
def test_what_ships_checks_and_is_formatted(name):
    text = shipped_files()[name]
    assert check_text(text, f"<shipped>/{name}.cv") == []
    assert format_text(format_text(text)) == format_text(text)
    before, _ = parse(Source("x", text))
    after, problems = parse(Source("x", format_text(text)))
    assert not problems
    assert before == after


def test_labels_name_the_prefixes():
    (chain,) = load("ekfac").curvatures.values()
    assert chain.labels == ("hessian", "ggn", "block_ggn", "kfac", "ekfac")
    assert {x.kind for x in shipped()} >= {"curvature", "transform", "inverse", "task"}


def test_the_grammar_is_strict():
    from lark import Lark

    text = (resources.files("curvlang.grammars") / "curvlang.lark").read_text("utf-8")
    Lark(text, parser="lalr", strict=True, propagate_positions=True, maybe_placeholders=True)


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.sampled_from(list(shipped_files())))
def test_mutated_specs_never_crash(rng: random.Random, name):
    text = list(shipped_files()[name])
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text) + 1)
        text[at : at + rng.choice([0, 1, 5])] = rng.choice(
            ["", "[", "}", "|>", "é", "\t", "'", "sum", "0", "\r\n", "^"]
        )
    source = "".join(text)
    render(check_text(source))
    format_text(source)


@settings(max_examples=100)
@given(st.text(max_size=80))
def test_noise_never_crashes(text):
    render(check_text(text))


def test_the_language_half_imports_no_torch():
    code = "import sys, curvlang.language, curvlang as cv; cv.load('ekfac'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_errors_carry_diagnostics():
    with pytest.raises(SpecError) as found:
        loads("curvature x = nothing")
    assert found.value.diagnostics[0].code == "E0206"


@pytest.mark.parametrize(
    "line",
    [
        "transform x(sharing: {expand, reduce} = expand, rank: int = 3) {",
        "  A[i,i'] = mean[n] sum[r,o] (b[n,r,o] + 1) * c[n,i,i']",
        "  B[i,i'] = A[i,i'] * trace(A)^(1 - 2 * power)",
        "  Y[o,k] = random_normal[o,k](seed)",
    ],
)
def test_lines_that_the_formatter_keeps(line):
    assert format_text(line).strip() == line.strip()


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("curvature z=weight_decay*kfac", "curvature z = weight_decay * kfac\n"),
        ("curvature z=0/0*ggn", "curvature z = 0 / 0 * ggn\n"),
        ("curvature z=0*1/0*ggn", "curvature z = 0 * 1 / 0 * ggn\n"),
        (
            "evaluate kfac on digits {\nlds   subsets=50\nlds retrains=3\n}",
            "evaluate kfac on digits {\n  lds subsets = 50\n  lds retrains = 3\n}\n",
        ),
    ],
)
def test_the_formatter_moves_what_holds_places(text, formatted):
    assert format_source(Source("x.cv", text)) == formatted
    assert parse(Source("x", text))[0] == parse(Source("x", formatted))[0]


def test_places_take_no_part_in_equality():
    """Two readings of one text are equal wherever its words stand: no node compares a span."""
    nodes = [x for x in vars(syntax).values() if isinstance(x, type) and is_dataclass(x)]
    compared = [
        (node.__name__, f.name)
        for node in nodes
        for f in fields(node)
        if f.compare and "Span" in str(f.type)
    ]
    assert len(nodes) > 20
    assert compared == []


@pytest.mark.parametrize("by", ["head", "layers", "[0, 1]", "units"])
def test_other_partitions_are_refused_once_and_with_what_there_is(by):
    text = f"curvature x = ggn |> block_diagonal(by = {by}) |> kronecker_factor |> eigen_correct"
    (problem,) = check_text(text)
    assert problem.code in ("E0705", "E0706")
    assert "names of parameters stand in quotes" in problem.notes[0]
    assert check_text("curvature x = block_ggn |> per_output") == []


def test_a_wrong_word_hides_nothing_that_stands_behind_it():
    problems = check_text(
        "curvature x = hessian |> drop_residual(fisher = exakt) |> block_diagonal |> kronecker_facto"
    )
    assert sorted(p.code for p in problems) == ["E0209", "E0706"]


@pytest.mark.parametrize(
    ("broken", "used"),
    [
        ("transform t {\n  needs a[n,t,i]\n  d[i] = mean[n,t] a[n,t,i]**2\n}", "curvature x = ggn |> t"),
        ("curvature y = = ggn", "curvature x = y |> block_diagonal"),
        ("inverse f: s -> 1 / (s + )", "curvature x = ggn\nevaluate x with f on digits { error against ggn }"),
        ("task d { data }", "curvature x = ggn\nevaluate x on d { error against ggn }"),
    ],
)  # fmt: skip
def test_a_definition_with_a_mistake_is_not_unknown_too(broken, used):
    """One mistake, one message; without the definition the name is unknown."""
    (only,) = check_text(f"{broken}\n{used}\n")
    assert only.code < "E0200"
    assert [d.code >= "E0200" for d in check_text(f"{used}\n")] == [True]
    assert len(check_text(f"{broken}\ncurvature q = gggn\n")) == 2


def test_a_second_index_of_a_space_has_a_prime():
    text = T.format("A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,j']\n" + Y)
    (found,) = [d for d in check_text(text) if d.code == "E0305"]
    assert found.help == ("write `i'` there",)
    text = T.format("A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,j]\n" + Y)
    (found,) = [d for d in check_text(text) if d.code == "E0305"]
    assert found.help == ("write `i` there, or `i'` for a second index of that space",)


@pytest.mark.parametrize("name", ["eye", "I", "delta"])
def test_the_identity_by_another_name_is_known(name):
    body = f"needs a[n,t,i]\n A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\n yield C[o,i,o',i'] = {name}[o,o'] * A[i,i']"
    text = f"transform t {{ {body} }}\ncurvature mine = block_ggn |> t"
    (found,) = check_text(text, "x.cv")
    assert found.help == ("the identity is `identity[o,o']`, 1 where both indices are equal",)
    assert check_text(text.replace(f"{name}[", "identity["), "x.cv") == []
