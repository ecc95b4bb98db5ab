"""The GGN's products from columns equal tangents and dense autodiff, float64."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.models.derivatives.column_product import LayersGGN
from curvlang.models.derivatives.products import Portion
from curvlang.models.tracing.blocks import blocks
from tests.models.derivatives.means import ggn_product
from tests.oracles import dense
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
    found = LayersGGN(*given, blocks(some.model, some.train[0][:1])).whole(v)
    assert float((found - ggn_product(*given)(v)).abs().max()) < TOLERANCE


def test_a_layer_used_twice():
    shared = torch.nn.Linear(3, 3).double()
    model = torch.nn.Sequential(shared, torch.nn.Tanh(), shared).eval()
    some = task(model, "cross_entropy", n=6)
    v = torch.randn(some.P, 8, dtype=torch.float64)
    given = (some.model, some.loss, *some.train)
    found = LayersGGN(*given, blocks(some.model, some.train[0][:1])).whole(v)
    assert float((found - ggn_product(*given)(v)).abs().max()) < TOLERANCE


def kept_blocks(matrix, found):
    """The entries on the blocks of a matrix alone."""
    kept = torch.zeros_like(matrix)
    for block in found:
        for place in block.places:
            kept[place[:, None], place] = matrix[place[:, None], place]
    return kept


def grouped():
    """Two groups of a convolution, which are two blocks of one shape."""
    conv = torch.nn.Conv2d(2, 4, 2, groups=2)
    model = torch.nn.Sequential(conv, torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    X = torch.randn(7, 2, 3, 3, dtype=torch.float64)
    y = torch.randint(0, 3, (7,))
    return cv.Task(model.double().eval(), "cross_entropy", (X, y), (X, y))


@pytest.mark.parametrize("columns", [1, 40])
@pytest.mark.parametrize(
    ("some", "loss"),
    [
        (task(network([3, 4, 4, 2], bias=True), "mse", positions=3), "mse"),
        (task(network([3, 4, 2], bias=False), "cross_entropy", n=1), "cross_entropy"),
        (grouped(), "cross_entropy"),
    ],
    ids=["positions", "one example", "groups"],
)
@pytest.mark.parametrize("by", ["layer", "parameter"])
def test_blocks_by_themselves_are_multiplied_together(some, loss, columns, by):
    own = blocks(some.model, some.train[0][:1], by=by)
    v = torch.randn(some.P, columns, dtype=torch.float64)
    wanted = kept_blocks(dense.ggn(some.model, loss, *some.train), own) @ v
    for way in (lambda: "forward", lambda: None):
        ggn = LayersGGN(some.model, some.loss, *some.train, own, way, lambda _: Portion(3, 7))
        found = ggn.blocks(v)
        assert float((found - wanted).abs().max()) < TOLERANCE
