"""A formula whose matrix does not fit: what the refusal says to write gives the same numbers."""

from __future__ import annotations

import re

import pytest
import torch

import curvlang as cv
from curvlang.compiler.planning.plan import Limits
from curvlang.facade import chains_of, chosen
from curvlang.runtime.fit import fit_chains
from tests.small import network, task

CLOSE = 1e-9  # float64: eigenpairs of matrices of a few numbers
WEIGHED = """transform weighed {
  "Outer products of gradients, each divided by its own damped length (arXiv:2310.00902)."
  needs a[n,t,i], g[n,r,t,o]
  v[n,o,i] = sum[r,t] g[n,r,t,o] * a[n,t,i]
  w[n] = sum[o,i] v[n,o,i]^2
  yield C[o,i,o',i'] = mean[n] v[n,o,i] * v[n,o',i'] / (0.01 + w[n])
}
curvature x = hessian |> drop_residual(fisher = empirical) |> block_diagonal(by = layer) |> """


def fitted(tail, t, dense=None):
    limits = Limits() if dense is None else Limits(dense=dense)
    ((stage,),) = fit_chains(
        chains_of(chosen(cv.loads(WEIGHED + tail))), t, last=True, limits=limits
    )
    return stage.operator


def test_the_repair_of_a_formula_that_does_not_fit_is_exact():
    t = task(network([3, 4, 3]), "cross_entropy", n=6)
    with pytest.raises(cv.SpecError, match="E0810") as caught:
        fitted("weighed", t, dense=100)
    (tail,) = re.findall(r"write `(.*?)`", str(caught.value))
    found = fitted(tail.replace("…", "6"), t, dense=100)
    assert [block.structure for block in found.blocks] == ["LowRank", "LowRank"]
    wanted = fitted("weighed", t).dense()
    assert torch.allclose(found.dense(), wanted, rtol=0, atol=CLOSE * float(wanted.abs().max()))
    fewer = fitted(tail.replace("…", "2"), t, dense=100).dense()
    assert not torch.allclose(fewer, wanted, rtol=0, atol=1e-3 * float(wanted.abs().max()))
