"""Random tensor programs: compiled equals interpreted, and what the compiler says of them holds.

A longer run: `python -m pytest tests/compiler/test_programs.py --programs 5000`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from curvlang.compiler.algebra.normal_form import normalise
from curvlang.compiler.algebra.terms import Elementwise, Power
from curvlang.compiler.codegen.instructions import AxisSum, Pointwise, names_read
from curvlang.compiler.derive.derive import derive
from curvlang.compiler.explain.explain import Explanation
from curvlang.compiler.planning.passes import schedule
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.source import Source
from curvlang.ir.expr import (
    Apply,
    Binary,
    BinaryOperator,
    Call,
    Define,
    Delta,
    Index,
    Number,
    Reduce,
    ReductionKind,
    Ref,
    Size,
    Space,
    Target,
    Yield,
)
from curvlang.ir.indices import children
from curvlang.ir.interpreter import interpret
from curvlang.language import loads
from curvlang.language.notation import expression
from curvlang.language.syntax.formatter import format_text
from curvlang.language.syntax.nodes import TransformDef
from curvlang.language.syntax.parser import parse
from curvlang.testing import assert_compiled_equals_interpreted, compare, programs
from curvlang.testing.expressions import Expressions, Scope

SHORT = settings(
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
sizes = st.fixed_dictionaries(
    {
        letter: st.integers(1, most)
        for letter, most in zip("ntroicp", (5, 3, 3, 3, 4, 3, 6), strict=True)
    }
)


def layer(body, needs="a[n,t,i], g[n,r,t,o]", start="block_ggn", name="mine"):
    return f"transform {name} {{\n needs {needs}\n {body}\n}}\ncurvature x = {start} |> {name}"


KRON = "yield C[o,i,o',i'] = "
DIAGONAL = KRON + "identity[o,o'] * identity[i,i'] * "
A = "A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']"
CASES = {
    "a mean inside a mean": layer(DIAGONAL + "mean[n] (sum[t] a[n,t,i] - mean[n] sum[t] a[n,t,i])^2 * (mean[n,r,t] g[n,r,t,o] * mean[n,t,i] a[n,t,i])"),
    "an argument that lacks the example": layer(DIAGONAL + "mean[n] max(sum[t] a[n,t,i], mean[o] size[o] * identity[o,o] * sum[r,t] g[n,r,t,o])"),
    "a constant beside each example": layer("w[i] = mean[n,t] a[n,t,i]\n" + DIAGONAL + "((mean[n,r,t] max(w[i], 0.1) * g[n,r,t,o]) + mean[n] max(sum[t] a[n,t,i], w[i]))"),
    "a number as a statistic": layer("M = size[n]\n" + DIAGONAL + "M"),
    "a sum reduced as one": layer(KRON + "mean[n] sum[r] ((sum[t] g[n,r,t,o] * a[n,t,i]) * (sum[t] g[n,r,t,o'] * a[n,t,i']) + identity[o,o'] * identity[i,i'])"),
    "a product and its transpose": layer("M[o,o'] = mean[n,r,t] g[n,r,t,o] * random_normal[o'](1)\nB[i,i'] = mean[n,t] a[n,t,i] * random_normal[i'](2)\n" + KRON + "M[o,o'] * B[i,i'] + M[o',o] * B[i',i]"),
    "one result of two": layer(A + "\nB[i,i'] = A[i,i'] + identity[i,i'] * random_normal[i](0)^2\nV[i,k] = eigh(B)\n" + KRON + "identity[o,o'] * sum[k] V[i,k] * random_sign[k](0) * V[i',k]"),
    "a space whose maker is not read": layer(A + "\n_[i,k], _[k] = eigh(A)\n" + DIAGONAL + "mean[k] random_normal[k](1) * sum[n,t,r] a[n,t,i] * g[n,r,t,o]"),
    "squares of eigenvectors": layer(A + "\nM[o,o'] = mean[n,r,t] g[n,r,t,o] * g[n,r,t,o']\nB[i,i'] = A[i,i'] + identity[i,i'] * random_normal[i](0)^2\nV[i,k], s[k] = eigh(B)\nU[o,m], _[m] = eigh(M)\n" + KRON + "M[o,o'] * sum[k] V[i,k]^2 * s[k] * V[i',k]^2"),
    "the same vectors twice": layer(A + "\nM[o,o'] = mean[n,r,t] g[n,r,t,o] * g[n,r,t,o']\nB[i,i'] = A[i,i'] + identity[i,i'] * random_normal[i](0)^2\nV[i,k], s[k] = eigh(B)\nU[o,m], w[m] = eigh(M)\n" + KRON + "sum[m,k] U[o,m] * U[o,m] * V[i,k] * s[k] * U[o',m] * U[o',m] * V[i',k]"),
    "words of Python": layer("lambda[o,o'] = mean[n,r,t] g[n,r,t,o] * g[n,r,t,o']\nNone[i] = mean[n,t] a[n,t,i]\ntorch = norm(lambda)\ns²[o] = lambda[o,o]\nﬁ[i] = None[i]\n" + KRON + "torch * lambda[o,o'] * None[i] * ﬁ[i'] + identity[o,o'] * identity[i,i'] * s²[o]"),
    "names of intermediate results": layer("x1[o] = mean[n,r,t] g[n,r,t,o]\nmean__1[i] = mean[n,t] a[n,t,i]\ny0_1[o] = 2 * x1[o]\nentries__1 = norm(x1)\ndiscarded_mass[o] = x1[o]^2\n" + DIAGONAL + "(x1[o] + y0_1[o] + discarded_mass[o] + entries__1) * mean__1[i] * mean[n] sum[r,t] g[n,r,t,o] * a[n,t,i]"),
    "a name given again and again": layer("A[i] = mean[n,t] (a[n,t,i] + 1)\nA[i] = mean[n,t] (A[i] * a[n,t,i] + 2)\nA[i] = mean[n,t] (A[i] * a[n,t,i] + 3)\n" + DIAGONAL + "A[i] * mean[n,r,t] (g[n,r,t,o] + 1)"),
    "letters beyond the alphabet": layer(A + "\nB[i,i'] = A[i,i'] + identity[i,i'] * random_normal[i](0)^2\nV[i,α], β[α] = eigh(B)\nM[o,o'] = mean[n,r,t] g[n,r,t,o] * g[n,r,t,o']\n" + KRON + "M[o,o'] * sum[α] V[i,α] * β[α] * V[i',α]"),
    "the Hessian's entries": layer("D[o,i] = H[o,i,o,i]\n" + DIAGONAL + "D[o,i]^2", "H[o,i,o',i']", "block_hessian"),
    "a tensor called H": layer("H[o,i,o',i'] = mean[n] sum[r] (sum[t] g[n,r,t,o] * a[n,t,i]) * (sum[t] g[n,r,t,o'] * a[n,t,i'])\n" + KRON + "H[o,i,o',i']"),
    "the eigenvectors of a leaf": "transform mine {\n needs H[p,p']\n _[p,k], s[k] = eigh(H)\n yield C[p,p'] = identity[p,p'] * sum[k] s[k]^2\n}\ncurvature x = hessian |> mine",
    "the curvature read twice": layer("yield C[o,i,o',i'] = 2 * C[o,i,o',i']\n}\ntransform again {\n needs C[o,i,o',i']\n D[o] = sum[i] C[o,i,o,i]\n yield C[o,i,o',i'] = identity[o,o'] * D[o] * identity[i,i']\n}\ntransform last {\n needs C[o,i,o',i']\n w[o,i] = mean[o',i'] C[o,i,o',i']\n yield C[o,i,o',i'] = w[o,i] * w[o',i'] + C[o,i,o',i']", "C[o,i,o',i']") + " |> again |> last",
    "many axes": layer("w[o] = sum[i,i',i'',i'''] mean[o',o'',o''',o''''] C[o,i,o',i'] * C[o'',i'',o''',i'''] * C[o'''',i,o',i'']\n" + KRON + "(sum[o',o'',i',i'',i'''] w[o''] * C[o,i,o',i'] * C[o'',i'',o',i''']) * (sum[o,o'',i,i'',i'''] w[o''] * C[o',i',o,i] * C[o'',i'',o,i'''])", "C[o,i,o',i']"),
    "numbers without a binary form": layer(DIAGONAL + "max(mean[n,r,t,t'] 0 * g[n,r,t,o] * a[n,t',i], 0.1) * 2^0.5"),
    "a constant spectrum": layer(A + "\nM[o,o'] = mean[n,r,t] g[n,r,t,o] * g[n,r,t,o']\nV[i,k], _[k] = eigh(A)\nU[o,m], _[m] = eigh(M)\n" + KRON + "sum[m,k] U[o,m] * V[i,k] * 0.1 * U[o',m] * V[i',k]"),
    "an exponent that is computed": layer(DIAGONAL + "(1 + mean[n,t] a[n,t,i]^2)^(1 - 1 / 3) * mean[n,r,t] g[n,r,t,o]"),
    "a bound index with a prime": layer(DIAGONAL + "(mean[n',t'] a[n',t',i]) * mean[n,t,r] g[n,r,t,o]"),
}  # fmt: skip
"""What random programs found, kept by name."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_kept_cases(name, batch):
    for size in ({}, {"t": 1}, {"o": 1, "i": 1}, {"n": 1, "r": 1}):
        whole = {"n": 5, "t": 2, "r": 2, "o": 3, "i": 2, "c": 2, "p": 4} | size
        assert_compiled_equals_interpreted(CASES[name], whole, batch)


def test_random_programs(request):
    count = request.config.getoption("--programs")

    @settings(SHORT, max_examples=count, derandomize=count <= 1000)
    @given(programs(), sizes, st.integers(1, 5), st.integers(0, 9))
    def run(text, size, batch, seed):
        assert_compiled_equals_interpreted(text, size, batch, seed)

    run()


@settings(SHORT, max_examples=15)
@given(programs(stages=2), sizes)
def test_any_split_into_batches_gives_the_same(text, size):
    once = list(_yields(text, size, size["n"]))
    for batch in range(1, size["n"]):
        for whole, part in zip(once, _yields(text, size, batch), strict=True):
            gap = np.abs(whole.operator.dense().numpy() - part.operator.dense().numpy()).max()
            assert gap <= part.allowed


def _yields(text, size, batch):
    return (one for _, found in compare(text, size, batch) for one in found)


def depth(program):
    """Passes by the definition: a reduction over examples is one more than what it reads."""
    levels: dict[str, int] = {}

    def of(expr):
        inner = max([0, *(levels.get(expr.name, 0) for _ in [0] if isinstance(expr, Ref))])
        inner = max([inner, *map(of, children(expr))])
        reduces = isinstance(expr, Reduce) and any(x.space == "n" for x in expr.indices)
        return inner + reduces

    for definition in program.definitions:
        if isinstance(definition, Space):
            continue
        levels |= dict.fromkeys((t.name for t in definition.targets), of(definition.value))
    return max(of(result.value) for result in program.results)


@settings(SHORT, max_examples=40)
@given(programs(), sizes)
def test_passes_are_the_depth_of_dependency(text, size):
    derived, _ = derive(list(loads(text).curvatures.values()))
    for program in derived:
        assert schedule(program).passes == depth(program)
        assert program.results


@settings(SHORT, max_examples=15)
@given(programs(layered=True, stages=1), sizes)
def test_work_is_counted(text, size):
    for plan, found in compare(text, size, 2):
        assert (
            Explanation((plan,), ()).flops > 0
            or not plan.passes
            or all(v == 1 for k, v in size.items())
        )
        assert all(one.shape.reason for one in found)


@settings(SHORT, max_examples=60)
@given(programs())
def test_text_and_tree_are_the_same_program(text):
    tree, problems = parse(Source("x", text))
    assert not problems
    tidy = format_text(text)
    assert format_text(tidy) == tidy
    assert parse(Source("x", tidy))[0] == tree
    for item in tree.items:
        for statement in item.body if isinstance(item, TransformDef) else ():
            if isinstance(statement, Define | Yield):
                assert parse_expression(expression(statement.value)) == statement.value


def parse_expression(text):
    (item,) = parse(Source("x", f"transform t {{ z = {text} }}"))[0].items
    return item.body[0].value


def as_expression(poly):
    """A normal form, written out again: sums of contractions as plain expressions."""

    def product(factors):
        found = Number(1.0)
        for factor in factors:
            found = Binary(BinaryOperator.MULTIPLY, found, factor)
        return found

    def one(factor):
        match factor:
            case Power(base=base, exponent=exponent):
                return Binary(BinaryOperator.POWER, as_expression(base), Number(exponent))
            case Elementwise(function=function, arguments=arguments):
                return Apply(function, tuple(map(as_expression, arguments)))
            case Ref() | Delta() | Call():
                return factor

    def term(t):
        lengths = [
            Binary(BinaryOperator.POWER, Size(Index(space)), Number(float(k)))
            for space, k in t.sizes
        ]
        body = product([Number(t.coefficient), *lengths, *map(one, t.factors)])
        return Reduce(ReductionKind.SUM, t.summed, body) if t.summed else body

    found = term(poly[0])
    for t in poly[1:]:
        found = Binary(BinaryOperator.ADD, found, term(t))
    return found


SPACES = {"n": 3, "t": 2, "r": 1, "i": 2, "o": 2}
TENSORS = {"a": "nti", "g": "nrto", "M": "ii", "w": "o", "X": "oit"}


def axes(letters):
    return tuple(Index(x, letters[:k].count(x)) for k, x in enumerate(letters))


@st.composite
def expressions(draw):
    scope = Scope({name: tuple(spaces) for name, spaces in TENSORS.items()})
    free = tuple(Index(x) for x in draw(st.lists(st.sampled_from("nio"), unique=True)))
    return free, Expressions(draw, scope).expression(free, 3)


@settings(SHORT, max_examples=150)
@given(expressions(), st.integers(0, 99), st.booleans())
def test_the_normal_form_keeps_the_meaning(drawn, seed, unit):
    free, expr = drawn
    rng = np.random.default_rng(seed)
    lengths = {**SPACES, "t": 1} if unit else SPACES
    leaves = {
        name: (rng.standard_normal([lengths[x] for x in own]), axes(own))
        for name, own in TENSORS.items()
    }
    poly = normalise(expr, frozenset(x for x, length in lengths.items() if length == 1))
    target = Target("C", free)
    wanted, _ = interpret([Yield(target, expr)], leaves, lengths)
    found, _ = interpret([Yield(target, as_expression(poly))], leaves, lengths)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9 * max(1.0, np.abs(wanted).max()))


SQUARES = "S[o,i] = mean[n] sum[r] (sum[t] g[n,r,t,o] * a[n,t,i])^2\n" + DIAGONAL + "S[o,i]"


def squared(operation):
    match operation:
        case AxisSum(squares=True) | Pointwise(function="^", arguments=(_, 2.0)):
            return True
        case _:
            return False


@pytest.mark.parametrize(("positions", "formed"), [(1, False), (3, True)])
def test_squares_of_outer_products_form_no_gradients_at_one_position(positions, formed):
    size = {"n": 8, "t": positions, "r": 2, "o": 20, "i": 30}
    (plan, _) = compare(layer(SQUARES), {**size, "p": 2, "c": 1}, 8)[-1]
    gradients = [
        line
        for line in plan.blocks[0].passes[0].lines
        if {*"noi"} <= {x.space for x in line.indices}
    ]
    squares = [line.operation for line in plan.blocks[0].passes[0].lines if squared(line.operation)]
    read = {name for operation in squares for name in names_read(operation)}
    assert any(line.target in read for line in gradients) is formed


@settings(SHORT, max_examples=20)
@given(sizes, st.integers(1, 5), st.sampled_from([2, 3, 4, -2]))
def test_powers_of_contractions(size, batch, exponent):
    """Split into powers of factors where no position ties them, whole where one does."""
    body = SQUARES.replace("^2", f"^{exponent}" if exponent > 0 else "^(-2)")
    assert_compiled_equals_interpreted(layer(body), size, batch)


@pytest.mark.parametrize(
    "entry",
    [
        "A[i,i] * (1e-200 * 1e-200 + 1)",
        "A[i,i] / (1 - 1e-200 * 1e-200)",
        "A[i,i] - 1e-200 * A[i,i] * 1e-200",
        "1e-200 * (1e-150 * A[i,i] + 1e190 * A[i,i]) * 1e10",
        "max(1e-200 * 1e-200, 1) * A[i,i]",
        "exp(1e-200 * 1e-200) * A[i,i]",
        "1e-300 * A[i,i] / (1e-150 * trace(A)) * 1e150",
    ],
)
def test_a_term_that_rounds_to_zero_beside_another(entry):
    size = {"n": 3, "t": 2, "r": 2, "o": 2, "i": 2, "c": 1, "p": 2}
    assert_compiled_equals_interpreted(layer(A + "\n" + DIAGONAL + entry), size, 2)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (KRON + "(mean[n,r,t] g[n,r,t,o] * random_normal[o'](1)) * identity[i,i']", "E0334"),
        ("w[n] = random_normal[n](1)\n" + DIAGONAL + "mean[n] w[n] * sum[t,r] a[n,t,i] * g[n,r,t,o]", "E0341"),
        (DIAGONAL + "mean[n,t,r] identity[n,n] * random_sign[n](0) * a[n,t,i] * g[n,r,t,o]", "E0341"),
        (DIAGONAL + "norm(a) * mean[n,t,r] a[n,t,i] * g[n,r,t,o]", "E0311"),
        ("b[n,i] = sum[t] a[n,t,i]\n" + DIAGONAL + "norm(b) * mean[n,t,r] a[n,t,i] * g[n,r,t,o]", "E0311"),
        ("K[n,n'] = sum[t,i] a[n,t,i] * a[n',t,i]\n" + DIAGONAL + "mean[n,n'] K[n,n'] * sum[t,r] a[n,t,i] * g[n,r,t,o]", "E0310"),
        (DIAGONAL + "mean[n] (mean[n'] identity[n,n']) * sum[t,r] a[n,t,i] * g[n,r,t,o]", "E0310"),
        (A + "\n" + DIAGONAL + "A[i,i] / (size[i] - size[i])", "E0345"),
        (A + "\n" + DIAGONAL + "A[i,i] / log(size[r] / size[t])", "E0345"),
        (A + "\n" + DIAGONAL + "A[i,i] * max(2, size[i])^2000", "E0345"),
        (A + "\n" + DIAGONAL + "size[i]^2000 * A[i,i]", "E0345"),
        (A + "\n" + DIAGONAL + "A[i,i] / size[i]^2000", "E0345"),
        (A + "\n" + DIAGONAL + "A[i,i] * exp(0 - 1000 * size[i])", "E0345"),
        ("space k = size[i] * 1e300\nP[i,k] = random_normal[i,k](0)\n" + DIAGONAL + "mean[n,t,r] (sum[k] P[i,k]) * a[n,t,i] * g[n,r,t,o]", "E0332"),
        ("space k = 2^(size[i] * 1000)\nP[i,k] = random_normal[i,k](0)\n" + DIAGONAL + "mean[n,t,r] (sum[k] P[i,k]) * a[n,t,i] * g[n,r,t,o]", "E0332"),
        ("space k = log(size[i] - size[i])\nP[i,k] = random_normal[i,k](0)\n" + DIAGONAL + "mean[n,t,r] (sum[k] P[i,k]) * a[n,t,i] * g[n,r,t,o]", "E0332"),
        (A + "\nB[i,i'] = 0 * A[i,i']\nD[i,i'] = inv(B)\n" + KRON + "D[i,i'] * mean[n,r,t] g[n,r,t,o] * g[n,r,t,o']", "E0344"),
        ("space k = 9\nP[i,k] = random_normal[i,k](0)\nB[k,k'] = sum[i] P[i,k] * P[i,k']\nD[k,k'] = inv(B)\n" + DIAGONAL + "(sum[k] D[k,k]) * mean[n,r,t] a[n,t,i] * g[n,r,t,o]", "E0344"),
        (A + "\nB[i,i'] = -A[i,i']\nD[i,i'] = cholesky(B)\n" + DIAGONAL + "D[i,i] * mean[n,r,t] g[n,r,t,o]", "E0344"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused(body, code):
    size = {"n": 3, "t": 2, "r": 2, "o": 2, "i": 2, "c": 1, "p": 2}
    with pytest.raises(SpecError) as found:
        compare(layer(body), size, 2)
    assert [d.code for d in found.value.diagnostics] == [code]
