"""Gram matrices by layers equal those of the columns; everything else reads the columns."""

from __future__ import annotations

import pytest
import torch

from curvlang.models.derivatives import layer_columns as by_layer
from curvlang.models.derivatives.layer_columns import LayerColumns, is_gram, layer_columns
from curvlang.models.tracing.blocks import blocks
from curvlang.models.tracing.leaves import LeafRequest, columns, leaves
from tests.small import network, task

TOLERANCE = 1e-12  # sums of a few hundred products of numbers of size one


def both(loss="cross_entropy", bias=True, positions=None, n=9):
    some = task(network([3, 4, 2, 3], bias=bias), loss, n=n, positions=positions)
    layers = blocks(some.model, some.train[0][:1])
    given = leaves(some.model, some.loss, *some.train, layers, LeafRequest({"a", "g"}))
    return layer_columns(layers, given), columns(layers, given)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", [None, 2, 3])
@pytest.mark.parametrize("held", [by_layer.HELD, 1])
def test_gram_matrices_agree(loss, bias, positions, held, monkeypatch):
    monkeypatch.setattr(by_layer, "HELD", held)
    found, formed = both(loss, bias, positions)
    assert isinstance(found, LayerColumns)
    expected = torch.einsum("nrp,nrq->pq", formed, formed)
    gram = torch.einsum("nrp,nra->ap", found, found)
    assert found._formed is None
    assert float((gram - expected).abs().max()) < TOLERANCE
    assert torch.equal(gram, gram.T)


def test_all_else_reads_the_columns():
    found, formed = both()
    assert found.shape == formed.shape
    assert torch.allclose(torch.einsum("nrp,nrp->p", found, found), formed.square().sum((0, 1)))
    assert torch.equal(found.square(), formed.square())
    assert torch.equal(2.0 * found, 2.0 * formed)
    v = torch.ones(formed.shape[2], dtype=formed.dtype)
    assert torch.equal(torch.einsum("nrp,p->nr", found, v), torch.einsum("nrp,p->nr", formed, v))


@pytest.mark.parametrize(
    ("equation", "gram"),
    [
        ("nrp,nra->ap", True), ("nrp,nra->pa", True), ("nrp,nrp->p", False),
        ("nrp,nsa->ap", False), ("nrp,nra->nap", False), ("nrp,nra->p", False),
    ],
)  # fmt: skip
def test_which_equations_are_gram_matrices(equation, gram):
    assert is_gram(equation) == gram


def test_two_different_columns_have_no_gram_matrix():
    """The twin: the same equation on two objects is a product of two things."""
    one, formed = both()
    other, _ = both(n=9)
    other.given["0"]["g"] = 2 * other.given["0"]["g"]
    expected = torch.einsum("nrp,nra->ap", formed, other.dense())
    assert torch.allclose(torch.einsum("nrp,nra->ap", one, other), expected)
