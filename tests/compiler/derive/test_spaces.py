"""Declared spaces, tensors read as matrices, projections and contracted reads of the curvature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlang.compiler.derive.derive import derive
from curvlang.compiler.explain.explain import Explanation
from curvlang.compiler.planning.plan import Geometry, Limits
from curvlang.compiler.planning.planner import plan
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.ir.expr import Define, Index
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.interpreter import interpret
from curvlang.language import loads
from curvlang.language.partition import Partition
from curvlang.operators import MatrixFree
from curvlang.runtime.assemble import operator
from curvlang.runtime.execute import Execution

TOLERANCE = 1e-9
N, T, R, O, I = (Index(x) for x in "ntroi")
AXES = {"a": (N, T, I), "g": (N, R, T, O), "e": (N, T, O)}

BODIES = {
    "truncated eigenvectors": """space k = min(2, size[i])
        A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
        V[i,k], s[k] = eigh(A)
        yield C[o,i,o',i'] = identity[o,o'] * sum[k] V[i,k] * s[k] * V[i',k]""",
    "truncated basis": """space k = min(2, size[i])
        A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
        V[i,k], _[k] = eigh(A)
        S[o,k] = mean[n] sum[r] (sum[t,i] g[n,r,t,o] * a[n,t,i] * V[i,k])^2
        yield C[o,i,o',i'] = sum[k] identity[o,o'] * V[i,k] * S[o,k] * V[i',k]""",
    "rectangular svd": """M[o,i] = mean[n] sum[r,t] g[n,r,t,o] * a[n,t,i]
        U[o,k], s[k], V[i,k] = svd(M)
        yield C[o,i,o',i'] = sum[k] U[o,k] * V[i,k] * s[k] * U[o',k] * V[i',k]""",
    "rearranged svd": """space k = 1
        M[o,i,o',i'] = C[o,i,o',i'] + 0
        U[o,o',k], s[k], V[i,i',k] = svd(M[o,o' | i,i'])
        yield C[o,i,o',i'] = sum[k] s[k] * U[o,o',k] * V[i,i',k]""",
    "whole block": """U[o,i,k], s[k] = eigh(C[o,i | o',i'])
        yield C[o,i,o',i'] = sum[k] U[o,i,k] * abs(s[k]) * U[o',i',k]""",
    "numbers of a block": """yield C[o,i,o',i'] = trace(C[o,i | o',i']) * identity[o,o'] * identity[i,i'] / norm(C)""",
    "contracted twice": """space k = min(3, size[o] * size[i])
        Y[o,i,k] = sum[o',i'] C[o,i,o',i'] * random_normal[o',i',k](1)
        Z[o,i,k] = sum[o',i'] C[o,i,o',i'] * Y[o',i',k] / size[k]
        yield C[o,i,o',i'] = sum[k] Z[o,i,k] * Z[o',i',k]""",
    "squared": """S[o,i,o',i'] = sum[o'',i''] C[o,i,o'',i''] * C[o'',i'',o',i']
        yield C[o,i,o',i'] = S[o,i,o',i']""",
    "quadratic": """space k = min(2, size[i])
        P[i,k] = random_normal[i,k](3)
        B[o,o',k] = sum[i,i'] P[i,k] * C[o,i,o',i'] * P[i',k]
        yield C[o,i,o',i'] = identity[i,i'] * sum[k] B[o,o',k] / size[k]""",
    "diagonal of a partial trace": """D[o] = sum[i] C[o,i,o,i]
        yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * D[o]""",
    "beside other terms": """x[o] = sum[i,o',i'] (2 * C[o,i,o',i'] - C[o,i,o',i'] / 3) + size[o]
        yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * x[o]""",
}  # fmt: skip
CHAINS = {
    "projected": "project_random(inputs = 2, outputs = 2)",
    "projected factors": "project_random(inputs = 2, sides = inputs) |> kronecker_factor",
    "projected correction": "project_random(inputs = 2, outputs = 2) |> kronecker_factor |> eigen_correct",
    "projected units": "project_random(outputs = 2, sides = outputs) |> per_output",
    "projected entries": "project_leading(inputs = 2, outputs = 2) |> diagonal",
    "projected twice": "project_random(inputs = 3, seed = 4) |> project_leading(inputs = 2, outputs = 2)",
    "projected structure": "kronecker_factor |> project_random(inputs = 2, outputs = 2)",
    "low rank": "low_rank(rank = 3, oversample = 1, refine = twice)",
    "low rank of factors": "kronecker_factor |> low_rank(rank = 3, oversample = 1)",
    "low rank of a projection": "project_random(inputs = 2, outputs = 2) |> low_rank(rank = 2, oversample = 1)",
    "projection of low rank": "low_rank(rank = 2, oversample = 1) |> project_random(inputs = 2, outputs = 2)",
}  # fmt: skip


def chain_of(name):
    if name in CHAINS:
        (chain,) = loads(f"curvature x = block_ggn |> {CHAINS[name]}").curvatures.values()
        return chain
    text = (
        f"transform mine {{ needs a[n,t,i], g[n,r,t,o], C[o,i,o',i']\n{BODIES[name]} }}\n"
        "curvature x = block_ggn |> mine"
    )
    (chain,) = loads(text).curvatures.values()
    return chain


def made(chain, sizes, batch=None, **options):
    programs, results = derive([chain], **options)
    program = next(p for p in programs if p.partition == Partition.LAYER)
    inner = {k: v for k, v in sizes.items() if k != "n"}
    found = plan(
        program, [Geometry("x", inner)], sizes["n"], memory=10**8, limits=Limits(batch=batch)
    )
    return program, found, results


def compiled_and_read(chain, sizes, batch, seed):
    """Dense results of every stage over layers: compiled, and read directly."""
    rng = np.random.default_rng(seed)
    values = {k: rng.standard_normal([sizes[x.space] for x in axes]) for k, axes in AXES.items()}
    program, planned, _ = made(chain, sizes, batch)
    run = Execution(planned, torch.float64, torch.device("cpu"))
    kinds = {leaf: info.kind for leaf, info in program.leaves.items()}
    for number in range(1, planned.passes + 1):
        for start in range(0, sizes["n"], batch):
            rows = slice(start, start + batch)
            run.feed(
                number,
                {"x": {leaf: torch.tensor(values[kind][rows]) for leaf, kind in kinds.items()}},
            )
        run.close(number)
    size = sizes["o"] * sizes["i"]
    known = {leaf: (values[kind], AXES[kind]) for leaf, kind in kinds.items()}
    for result in program.results:
        shape = planned.blocks[0].results[result].shape
        op = operator(shape, run.result(planned.blocks[0], result), size, _no_products)
        wanted, _ = interpret([*program.definitions, result], known, sizes)
        yield op, torch.tensor(wanted.reshape(size, size))


def _no_products(_: object) -> MatrixFree:
    raise AssertionError("small programs are formed")


lengths = st.fixed_dictionaries(
    {
        "n": st.integers(1, 5),
        "t": st.integers(1, 3),
        "r": st.integers(1, 3),
        "o": st.integers(2, 3),
        "i": st.integers(2, 4),
    }
)


@pytest.mark.parametrize("name", [*BODIES, *CHAINS])
@settings(max_examples=6)
@given(lengths, st.integers(1, 5), st.integers(0, 99))
def test_compiled_equals_interpreted(name, sizes, batch, seed):
    for op, wanted in compiled_and_read(chain_of(name), sizes, min(batch, sizes["n"]), seed):
        scale = max(1.0, float(wanted.abs().max()))
        assert float((op.dense() - wanted).abs().max()) <= TOLERANCE * scale


SIZES = {"n": 32, "t": 1, "r": 3, "o": 20, "i": 30}


@pytest.mark.parametrize("name", ["low rank", "projected", "projected correction", "quadratic"])
@pytest.mark.parametrize("positions", [1, 4])
def test_the_block_is_never_formed(name, positions):
    _, planned, _ = made(chain_of(name), SIZES | {"t": positions}, 8, last=True)
    functions = [f for b in planned.blocks for f in (*b.passes, *b.finish)]
    functions += [r.code for b in planned.blocks for r in b.results.values()]
    block = (SIZES["o"] * SIZES["i"]) ** 2
    assert max(f.largest for f in functions) < block
    assert sum(f.elements for f in functions) < block


def test_a_read_that_is_not_contracted_forms_it():
    _, planned, _ = made(chain_of("rearranged svd"), SIZES, 8, last=True)
    assert max(f.largest for b in planned.blocks for f in b.passes) >= (600) ** 2


def test_explain_says_what_is_never_formed():
    program, planned, results = made(chain_of("low rank"), SIZES, 8)
    assert program.inlined == {"Y", "Y_2", "Y_3", "B"}
    layered = (tuple(r for r in results[0] if r.partition == Partition.LAYER),)
    text = str(Explanation((planned,), layered))
    # Three are shown; the fourth is the pass of another power iteration.
    assert text.count("contracted in place, never formed") == 3
    assert "pass 3: the same code as pass 2, with " in text
    assert "|q| = min(3 + 1, |o|" in text
    assert "q = 4" in text


def test_passes_follow_the_power_iterations():
    for refine, passes in (("none", 2), ("once", 3), ("twice", 4)):
        chain = f"curvature x = block_ggn |> low_rank(rank = 2, refine = {refine})"
        (found,) = loads(chain).curvatures.values()
        assert made(found, SIZES, 8)[1].passes == passes


def test_two_stages_may_use_one_letter():
    """Each stage's `k` is a space of its own, however long the other's is."""
    text = """transform one { needs a[n,t,i]
      space k = 2
      P[i,k] = random_normal[i,k](0)
      X[k,k'] = mean[n] sum[t,i,i'] P[i,k] * a[n,t,i] * a[n,t,i'] * P[i',k']
      yield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * trace(X) }
    transform two { needs a[n,t,i], X[m,m']
      A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
      V[i,k], s[k] = eigh(A)
      yield C[o,i,o',i'] = identity[o,o'] * sum[k,m] V[i,k] * s[k] * V[i',k] * X[m,m] }
    curvature x = block_ggn |> one |> two"""
    (chain,) = loads(text).curvatures.values()
    _, planned, _ = made(chain, SIZES)
    assert planned.blocks[0].sizes["k"] == 2
    assert planned.blocks[0].sizes["k2"] == 30
    for op, wanted in compiled_and_read(chain, {"n": 3, "t": 2, "r": 1, "o": 2, "i": 3}, 2, 0):
        assert float((op.dense() - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


def test_a_made_space_is_never_the_projected_one():
    """After `i` became the columns `k` of a basis, a decomposition's own `k` is another space."""
    text = """transform directions { needs a[n,t,i], g[n,r,t,o]
      M[o,i] = mean[n] sum[r,t] g[n,r,t,o] * a[n,t,i]
      U[o,k], s[k], V[i,k] = svd(M)
      yield C[o,i,o',i'] = sum[k] U[o,k] * V[i,k] * s[k] * U[o',k] * V[i',k] }
    curvature x = block_ggn |> project_random(inputs = 3, outputs = 2) |> directions"""
    (chain,) = loads(text).curvatures.values()
    program, planned, _ = made(chain, SIZES)
    (svd,) = (d for d in program.definitions if isinstance(d, Define) and len(d.targets) == 3)
    assert [str(x) for x in svd.targets[2].indices] == ["k", "k2"]
    assert planned.blocks[0].sizes["k2"] == 2
    for op, wanted in compiled_and_read(chain, {"n": 3, "t": 2, "r": 1, "o": 4, "i": 5}, 2, 0):
        assert float((op.dense() - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("space k = 31\nA[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nX[i,k], s[k] = eigh(A)", "E0332"),
        ("space k = 31\nY[i,k] = random_normal[i,k](0)\nX[i,k] = orthonormal(Y)", "E0333"),
        ("space k = size[o] / 21\nX[i,k] = random_normal[i,k](0)", "E0331"),
    ],
)
def test_lengths_that_cannot_be_are_refused(body, code):
    text = (
        f"transform mine {{ needs a[n,t,i]\n{body}\n"
        "yield C[o,i,o',i'] = identity[o,o'] * sum[k] X[i,k] * X[i',k] }\n"
        "curvature x = block_ggn |> mine"
    )
    (chain,) = loads(text).curvatures.values()
    with pytest.raises(SpecError, match=code) as found:
        made(chain, SIZES)
    assert "block `x`" in str(found.value)
    assert found.value.diagnostics[0].help


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_norms_of_very_large_and_small_entries(scale, dtype):
    """Squares of the entries overflow or vanish; elsewhere no digit is other than torch's."""
    scale = scale if dtype == torch.float64 else {1e200: 1e30, 1e-200: 1e-30}.get(scale, scale)
    plain = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = FUNCTIONS["norm"].apply(torch, plain * scale)
    assert abs(float(found) / scale / float(plain.double().norm()) - 1) < 1e-6
    if scale == 1.0:
        assert torch.equal(found, torch.linalg.norm(plain.reshape(-1)))
    assert float(FUNCTIONS["norm"].apply(torch, torch.zeros(2, 2, dtype=dtype))) == 0.0
    assert np.isclose(
        FUNCTIONS["norm"].apply(np, (plain * scale).numpy()), float(found), rtol=1e-5, atol=0
    )
