"""Indices in parts, and masks of compared indices: compiled against read directly, structures, and the code that is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.compiler.algebra import shapes
from curvlang.compiler.codegen.instructions import Mask, Reshape
from curvlang.compiler.derive.derive import derive
from curvlang.compiler.planning.plan import Geometry, Limits, first_plan
from curvlang.compiler.planning.planner import plan
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.ir.places import SPLIT, comparison, entries
from curvlang.language import loads
from curvlang.testing.comparison import assert_compiled_equals_interpreted

A = "A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']\n"
G = "G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']\n"
HEADS = "split o = (h,d) with h = 2\n"
APART = HEADS + "G[h,d,d'] = mean[n] sum[r,t] g[n,r,t,(h,d)] * g[n,r,t,(h,d')]\n"
JOINED = "yield C[(h,d),i,(h',d'),i'] = "
WHOLE = "yield C[o,i,o',i'] = "
SIZES = {"n": 5, "t": 2, "r": 2, "o": 4, "i": 6, "c": 2, "p": 4}


def layer(body, needs="a[n,t,i], g[n,r,t,o]"):
    return f"transform mine {{\nneeds {needs}\n{body}\n}}\ncurvature x = block_ggn |> mine"


CASES = {
    "heads apart": A + APART + JOINED + "identity[h,h'] * G[h,d,d'] * A[i,i']",
    "split and joined": HEADS + JOINED + "mean[n] sum[r] (sum[t] g[n,r,t,(h,d)] * a[n,t,i]) * (sum[t] g[n,r,t,(h',d')] * a[n,t,i'])",
    "identity": HEADS + JOINED + "identity[h,h'] * identity[d,d'] * identity[i,i'] * 2",
    "a number for each head": HEADS + "w[h] = mean[n] sum[r,t,d] g[n,r,t,(h,d)]^2\n" + JOINED + "identity[h,h'] * identity[d,d'] * identity[i,i'] * w[h]",
    "dense heads": HEADS + JOINED + "identity[h,h'] * mean[n] sum[r] (sum[t] g[n,r,t,(h,d)] * a[n,t,i]) * (sum[t] g[n,r,t,(h,d')] * a[n,t,i'])",
    "a sum with a multiple": A + APART + JOINED + "2 * (identity[h,h'] * G[h,d,d'] * A[i,i'] - 0.5 * identity[h,h'] * identity[d,d'] * identity[i,i'])",
    "three parts": A + G + "split i = (x,y,z) with x = 3, z = 1\nB[x,y,z,x',y',z'] = A[(x,y,z),(x',y',z')] * where(x == x')\n" + "yield C[o,(x,y,z),o',(x',y',z')] = G[o,o'] * B[x,y,z,x',y',z']",
    "a part split again": A + "split i = (x,y) with x = 2\nsplit y = (u,v) with u = 3\nw[x,u,v] = mean[n,t] sum[y] a[n,t,(x,y)]^2 * where(y == (u,v))\n" + "yield C[o,(x,y),o',(x',y')] = identity[o,o'] * identity[x,x'] * identity[y,y'] * sum[u,v] w[x,u,v] * where(y == (u,v))",
    "positions in parts": "split t = (x,y) with x = 2\nw[x,i] = mean[n] sum[y] a[n,(x,y),i]^2\n" + WHOLE + "identity[o,o'] * identity[i,i'] * sum[x] w[x,i]^2",
    "the curvature in parts": HEADS + "w[h] = sum[d,i] C[(h,d),i,(h,d),i]\n" + JOINED + "identity[h,h'] * identity[d,d'] * identity[i,i'] * w[h]",
    "whole beside a part": HEADS + "w[o,h] = mean[n] sum[r,t,d] g[n,r,t,(h,d)] * g[n,r,t,o]\n" + WHOLE + "identity[o,o'] * identity[i,i'] * sum[h] w[o,h]^2",
    "eigenvectors over parts": A + APART.replace("h,d,d'", "h,d,h',d'").replace("(h,d')", "(h',d')") + "U[h,d,m], s[m] = eigh(G[h,d | h',d'])\n" + JOINED + "(sum[m] U[h,d,m] * s[m] * U[h',d',m]) * A[i,i']",
    "a factor joined by itself": A + APART + "M[(h,d),(h',d')] = identity[h,h'] * G[h,d,d']\n" + WHOLE + "M[o,o'] * A[i,i']",
    "a band": A + G + WHOLE + "where(|o - o'| <= 1) * G[o,o'] * A[i,i']",
    "a band of positions": A + "G[o,o'] = mean[n] sum[r,t,t'] g[n,r,t,o] * g[n,r,t',o'] * where(|t - t'| <= 1)\n" + WHOLE + "G[o,o'] * A[i,i']",
    "past positions": A + "M[o,o'] = mean[n] sum[r,t,t'] g[n,r,t,o] * g[n,r,t',o'] * where(t' <= t)\n" + WHOLE + "(M[o,o'] + M[o',o]) * A[i,i']",
    "block triangular": A + HEADS + "B[(h,d),(h',d')] = where(h <= h') * (mean[n] sum[r,t] g[n,r,t,(h,d)] * g[n,r,t,(h',d')])\n" + WHOLE + "(B[o,o'] + B[o',o]) * A[i,i']",
    "every sign": A + G + WHOLE + "(where(o < o') + where(o > o') + where(o != o') + where(o >= o') * where(o <= o')) * G[o,o'] * A[i,i']",
    "equal places": A + G + WHOLE + "where(o == o') * G[o,o'] * where(i' == i) * A[i,i']",
    "lengths and numbers": A + G + WHOLE + "where(2 * o + 1 < size[o]) * where(2 * o' + 1 < size[o]) * G[o,o'] * A[i,i']",
    "places of two spaces": WHOLE + "identity[o,o'] * identity[i,i'] * where(o <= i + 1) * mean[n,r,t] g[n,r,t,o]^2 * a[n,t,i]^2",
    "anti-diagonal": A + G + WHOLE + "where(i + i' == 5) * A[i,i'] * G[o,o'] + identity[o,o'] * identity[i,i']",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [2, 5])
def test_compiled_is_what_is_read(name, batch):
    needs = "C[o,i,o',i']" if "the curvature" in name else "a[n,t,i], g[n,r,t,o]"
    for size in ({}, {"n": 1, "r": 1}, {"o": 2}):
        assert_compiled_equals_interpreted(layer(CASES[name], needs), SIZES | size, batch)


def planned(body, needs="a[n,t,i], g[n,r,t,o]"):
    chain = loads(layer(body, needs)).curvatures["x"]
    programs, (results,) = derive([chain], last=True)
    sizes = {k: SIZES[k] for k in "troi"}
    plans = [
        plan(p, [Geometry("0", sizes)], 5, memory=2**40, limits=Limits(batch=5)) for p in programs
    ]
    return plans[-1], first_plan(results[-1], plans)


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("heads apart", shapes.KroneckerShape),
        ("split and joined", shapes.GramShape),
        ("identity", shapes.IdentityShape),
        ("a number for each head", shapes.DiagonalShape),
        ("a sum with a multiple", shapes.SumShape),
        ("equal places", shapes.DiagonalShape),
        ("a band", shapes.KroneckerShape),
        ("three parts", shapes.KroneckerShape),
        ("places of two spaces", shapes.DiagonalShape),
    ],
)
def test_structures_are_seen_through_parts_and_masks(name, structure):
    assert isinstance(planned(CASES[name])[1].shape, structure)


def test_an_index_is_split_by_a_view_and_no_mask_is_made():
    made, _ = planned(CASES["heads apart"])
    lines = [x.operation for x in made.blocks[0].passes[0].body]
    assert any(isinstance(x, Reshape) for x in lines)
    assert not any(isinstance(x, Mask) for x in lines)


def test_a_mask_is_made_once_before_the_data_is_read():
    made, _ = planned(CASES["a band of positions"])
    (block,) = made.blocks
    assert any(isinstance(x.operation, Mask) for x in block.finish[0].body)
    assert not any(isinstance(x.operation, Mask) for x in block.passes[0].body)


@pytest.mark.parametrize(
    "split", ["o = (h,d) with h = 3", "o = (h,d) with h = 8", "o = (h,d) with h = 2, d = 3"]
)
def test_parts_have_the_entries_of_their_index(split):
    body = f"split {split}\nw[h] = mean[n] sum[r,t,d] g[n,r,t,(h,d)]^2\n{JOINED}"
    with pytest.raises(SpecError, match="E0335"):
        planned(body + "identity[h,h'] * identity[d,d'] * identity[i,i'] * w[h]")


def test_a_letter_of_queries_is_any_other_letter_in_a_transform():
    body = "split o = (h,q) with h = 2\nw[h,q] = where(h < q) * mean[n] sum[r,t] g[n,r,t,(h,q)]\n"
    text = body + WHOLE + "identity[o,o'] * identity[i,i'] * sum[h,q] w[h,q]^2"
    assert_compiled_equals_interpreted(layer(text), SIZES, 5)


@pytest.mark.parametrize("letter", ["n", "q"])
def test_a_score_compares_no_places_of_examples(letter):
    with pytest.raises(SpecError, match="E0337"):
        loads(
            "score x { needs u[q,p], v[n,p]\n"
            f"yield s[q,n] = sum[p] u[q,p] * v[n,p] * where({letter} < 3) }}"
        )


def test_entries_are_those_of_plain_loops():
    def loops(shape, condition):
        found = np.zeros(shape)
        for place in np.ndindex(*shape):
            found[place] = condition(*place)
        return found

    band = entries(comparison("<=", absolute=True), (5, 7), (1.0, -1.0, 2.0))
    assert np.array_equal(band, loops((5, 7), lambda x, y: abs(x - y) <= 2))
    weighed = entries(comparison("<", absolute=False), (5, 7), (2.0, -3.0, -1.0))
    assert np.array_equal(weighed, loops((5, 7), lambda x, y: 2 * x - 3 * y < -1))
    parts = entries(SPLIT, (12, 2, 3, 2), ())
    assert np.array_equal(parts, loops((12, 2, 3, 2), lambda x, a, b, c: x == 6 * a + 2 * b + c))


TRIDIAGONAL = """transform tridiagonal(eps: float = 0.01) {
  "The precision that is tridiagonal and has the factor's entries there: SONew (arXiv:2311.10085)."
  needs a[n,t,i], g[n,r,t,o]
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i'] + eps * identity[i,i']
  G[o,o'] = mean[n] sum[r,t] g[n,r,t,o] * g[n,r,t,o']
  s[i] = sum[i'] where(i' == i + 1) * A[i,i'] / A[i',i']
  w[i] = 1 / (A[i,i] - s[i] * sum[i'] where(i' == i + 1) * A[i,i'])
  L[i,i'] = identity[i,i'] - where(i == i' + 1) * s[i']
  X[i,i'] = sum[i''] L[i,i''] * w[i''] * L[i',i'']
  B[i,i'] = inv(X)
  yield C[o,i,o',i'] = G[o,o'] * (B[i,i'] + B[i',i]) / 2
}
curvature x = block_ggn |> tridiagonal"""


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4, bias=False)).double().eval()
    x = torch.randn(20, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (20,), generator=generator)
    return cv.Task(model, "cross_entropy", (x, y), (x[:2], y[:2]))


def factors(task):
    """X, and the output factor, by a loop over the examples."""
    x = task.train[0]
    G = torch.zeros(4, 4, dtype=torch.float64)
    with torch.no_grad():
        for row in task.model(x):
            p = torch.softmax(row, 0)
            G += (torch.diag(p) - torch.outer(p, p)) / len(x)
    return x, G


def test_heads_are_blocks_of_the_output_factor(task):
    found = cv.fit(cv.loads(layer(CASES["heads apart"])), task).dense()
    x, G = factors(task)
    kept = torch.block_diag(G[:2, :2], G[2:, 2:])
    assert torch.allclose(found, torch.kron(kept, x.T @ x / 20), atol=1e-12, rtol=0)


def test_a_tridiagonal_precision_has_the_entries_of_the_factor_beside_the_diagonal(task):
    found = cv.fit(cv.loads(TRIDIAGONAL), task).dense()
    x, G = factors(task)
    A = x.T @ x / 20 + 0.01 * torch.eye(5, dtype=torch.float64)
    B = found.reshape(4, 5, 4, 5)[0, :, 0] / G[0, 0]
    band = (torch.arange(5)[:, None] - torch.arange(5)).abs() <= 1
    assert torch.allclose(B[band], A[band], atol=1e-12, rtol=0)
    assert torch.linalg.inv(B)[~band].abs().max() < 1e-9
    assert (B - A)[~band].abs().max() > 1e-3
