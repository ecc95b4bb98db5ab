"""Compiled programs equal the direct reading of their expressions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvlang.compiler.derive.derive import derive
from curvlang.compiler.planning.plan import Geometry, Limits
from curvlang.compiler.planning.planner import plan
from curvlang.ir.expr import Index
from curvlang.ir.interpreter import interpret
from curvlang.language import load, loads
from curvlang.language.partition import Partition
from curvlang.operators import MatrixFree
from curvlang.runtime.assemble import operator
from curvlang.runtime.execute import Execution

TOLERANCE = 1e-9
N, T, R, O, I = (Index(x) for x in "ntroi")
AXES = {"a": (N, T, I), "g": (N, R, T, O), "e": (N, T, O)}

WRITTEN = {
    "two terms": "A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nG[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']\nyield C[o,i,o',i'] = 2 * G[o,o'] * A[i,i'] + 0.5 * identity[o,o'] * identity[i,i']",
    "centred": "m[i] = mean[n,t] a[n,t,i]\nA[i,i'] = mean[n,t] (a[n,t,i] - m[i]) * (a[n,t,i'] - m[i'])\nG[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']\nyield C[o,i,o',i'] = G[o,o'] * A[i,i'] / (1 + trace(A))",
    "input only": "yield C[o,i,o',i'] = identity[o,o'] * mean[n,t] a[n,t,i] * a[n,t,i']",
    "root": "M[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']\nL[o,o'] = power(M, 1/2)\nA[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nyield C[o,i,o',i'] = L[o,o'] * A[i,i'] / norm(M)",
    "rank one": "w[o,i] = mean[n] sum[r,t] g[n,r,t,o] * a[n,t,i]\nyield C[o,i,o',i'] = w[o,i] * w[o',i']",
    "per input": "B[i,o,o'] = mean[n] sum[r] (sum[t] g[n,r,t,o] * a[n,t,i]) * (sum[t] g[n,r,t,o'] * a[n,t,i])\nyield C[o,i,o',i'] = identity[i,i'] * B[i,o,o']",
    "one basis": "A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nV[i,k], _[k] = eigh(A)\nS[o,k] = mean[n] sum[r] (sum[t,i] g[n,r,t,o] * a[n,t,i] * V[i,k])^2\nyield C[o,i,o',i'] = sum[k] identity[o,o'] * V[i,k] * S[o,k] * V[i',k]",
    "elementwise": "D[o,i] = mean[n] sum[r] sqrt(abs(sum[t] g[n,r,t,o] * a[n,t,i])) + size[o]\nyield C[o,i,o',i'] = identity[o,o'] * identity[i,i'] * max(D[o,i], 1)",
    "rounds": "A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nrepeat 3 { A[i,i'] = mean[n,t] sum[i''] a[n,t,i] * a[n,t,i''] * A[i'',i'] / (1 + norm(A)) }\nB[i,i'] = A[i,i'] + identity[i,i']\nM[i,i'] = sum[i''] B[i,i''] * B[i',i'']\nyield C[o,i,o',i'] = identity[o,o'] * M[i,i']",
    "low rank": "A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\nV[i,k], s[k] = eigh(A)\nd[o] = mean[n] sum[r,t] g[n,r,t,o]\nyield C[o,i,o',i'] = sum[k] d[o] * V[i,k] * s[k] * d[o'] * V[i',k]",
}
SHIPPED = [
    "ekfac",
    "kfac_reduce",
    "diagonal",
    "block_ggn",
    "shampoo",
    "etkfac",
    "nearest_kronecker",
]
STRUCTURES = {
    "two terms": "SumShape",
    "centred": "KroneckerShape",
    "input only": "KroneckerShape",
    "root": "KroneckerShape",
    "per input": "BlocksShape",
    "one basis": "EigenBasisShape",
    "elementwise": "DiagonalShape",
}


def spec(name):
    if name in SHIPPED:
        return load(name)
    body = WRITTEN[name]
    return loads(
        f"transform mine {{ needs a[n,t,i], g[n,r,t,o]\n{body} }}\ncurvature x = block_ggn |> mine"
    )


def compiled_and_read(name, sizes, batch, seed):
    """Dense results of every stage over layers: compiled and interpreted."""
    rng = np.random.default_rng(seed)
    whole = {"n": sizes["n"], **{k: v for k, v in sizes.items() if k != "n"}}
    values = {k: rng.standard_normal([whole[x.space] for x in axes]) for k, axes in AXES.items()}
    (chain,) = spec(name).curvatures.values()
    programs, _ = derive([chain])
    program = next(p for p in programs if p.partition == Partition.LAYER)
    inner = {k: v for k, v in sizes.items() if k != "n"}
    made = plan(
        program, [Geometry("x", inner)], sizes["n"], memory=10**8, limits=Limits(batch=batch)
    )
    run = Execution(made, torch.float64, torch.device("cpu"))
    kinds = {leaf: info.kind for leaf, info in program.leaves.items()}
    for number in range(1, made.passes + 1):
        for start in range(0, sizes["n"], batch):
            rows = slice(start, start + batch)
            given_ = {leaf: torch.tensor(values[kind][rows]) for leaf, kind in kinds.items()}
            run.feed(number, {"x": given_})
        run.close(number)
    size = sizes["o"] * sizes["i"]
    known = {leaf: (values[kind], AXES[kind]) for leaf, kind in kinds.items()}
    out = []
    for result in program.results:
        shape = made.blocks[0].results[result].shape
        op = operator(shape, run.result(made.blocks[0], result), size, _no_products)
        wanted, _ = interpret([*program.definitions, result], known, whole)
        out.append((shape, op, torch.tensor(wanted.reshape(size, size))))
    return out


def _no_products(_: object) -> MatrixFree:
    raise AssertionError("small programs are formed")


sizes = st.fixed_dictionaries(
    {
        "n": st.integers(1, 6),
        "t": st.integers(1, 3),
        "r": st.integers(1, 3),
        "o": st.integers(1, 3),
        "i": st.integers(1, 4),
    }
)


@pytest.mark.parametrize("name", [*WRITTEN, *SHIPPED])
@settings(max_examples=12)
@given(sizes, st.integers(1, 6), st.integers(0, 99))
def test_compiled_equals_interpreted(name, sizes, batch, seed):
    for _, op, wanted in compiled_and_read(name, sizes, min(batch, sizes["n"]), seed):
        scale = max(1.0, float(wanted.abs().max()))
        assert float((op.dense() - wanted).abs().max()) <= TOLERANCE * scale


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_is_found(name):
    sizes = {"n": 4, "t": 2, "r": 2, "o": 3, "i": 4}
    shape, _, _ = compiled_and_read(name, sizes, 4, 0)[-1]
    assert type(shape).__name__ == STRUCTURES[name]
    assert shape.reason


def test_passes_follow_from_dependencies():
    from curvlang.compiler.planning.passes import schedule

    for name, wanted in (("kfac", 1), ("ekfac", 2), ("nearest_kronecker", 21)):
        (chain,) = load(name).curvatures.values()
        programs, _ = derive([chain])
        program = next(p for p in programs if p.partition == Partition.LAYER)
        assert schedule(program).passes == wanted


def test_one_position_never_forms_per_example_gradients():
    (chain,) = load("ekfac").curvatures.values()
    programs, _ = derive([chain])
    program = next(p for p in programs if p.partition == Partition.LAYER)
    for positions, formed in ((1, False), (5, True)):
        sizes = {"t": positions, "r": 3, "o": 20, "i": 30}
        made = plan(program, [Geometry("x", sizes)], 64, memory=10**9, limits=Limits(batch=64))
        second = made.blocks[0].passes[1]
        assert (second.largest >= 64 * 20 * 30) is formed
