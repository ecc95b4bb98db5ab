"""The GGN's products from columns equal tangents and dense autodiff, float64."""

from __future__ import annotations

import pytest
import torch

from curvlang.models.derivatives.column_product import ggn_of_layers
from curvlang.models.derivatives.products import ggn_product
from curvlang.models.tracing.blocks import blocks
from tests.small import network, task

TOLERANCE = 1e-12  # sums of a few hundred products of numbers of size one


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", [None, 3])
@pytest.mark.parametrize("columns", [1, 2, 5, 40])
def test_both_ways_agree(loss, bias, positions, columns):
    some = task(network([3, 4, 2], bias=bias), loss, n=300, positions=positions)
    given = (some.model, some.loss, *some.train)
    v = torch.randn(some.P, columns, dtype=torch.float64)
    found = ggn_of_layers(*given, blocks(some.model, some.train[0][:1]))(v)
    assert float((found - ggn_product(*given)(v)).abs().max()) < TOLERANCE


def test_a_layer_used_twice():
    shared = torch.nn.Linear(3, 3).double()
    model = torch.nn.Sequential(shared, torch.nn.Tanh(), shared).eval()
    some = task(model, "cross_entropy", n=6)
    v = torch.randn(some.P, 8, dtype=torch.float64)
    given = (some.model, some.loss, *some.train)
    found = ggn_of_layers(*given, blocks(some.model, some.train[0][:1]))(v)
    assert float((found - ggn_product(*given)(v)).abs().max()) < TOLERANCE
