"""Every rule of structure finds its example, and nothing that an earlier rule knows more of."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.compiler.algebra.structure import RULES
from tests.small import network, task

BODY = """transform only {{
  needs a[n,t,i], g[n,r,t,o], C[o,i,o',i']
  space m = 2
  A[i,i'] = mean[n,t] a[n,t,i] * a[n,t,i']
  B[o,o'] = mean[n,t] sum[r] g[n,r,t,o] * g[n,r,t,o']
  V[i,k], _[k] = eigh(A)
  U[o,j], _[j] = eigh(B)
  S[j,k] = mean[n] sum[r] (sum[t,o,i] g[n,r,t,o] * a[n,t,i] * U[o,j] * V[i,k])^2
  D[o,i,i'] = mean[n,t] sum[r] g[n,r,t,o]^2 * a[n,t,i] * a[n,t,i']
  W[o,i,m] = random_normal[o,i,m](0)
  yield C[o,i,o',i'] = {entries}
}}
curvature mine = ggn |> block_diagonal |> only
"""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.structure)
def test_the_example_has_the_structure(rule):
    own = task(network([3, 4, 2]), "cross_entropy")
    found = cv.fit(cv.loads(BODY.format(entries=rule.example)), own)
    assert {op.structure for op in found.blocks.values()} == {rule.structure}
    dense = cv.fit(cv.loads(BODY.format(entries=f"{rule.example} + C[o,i,o',i']")), own)
    whole = cv.fit("block_ggn", own)
    assert torch.allclose(dense.dense(), found.dense() + whole.dense(), atol=1e-10)
