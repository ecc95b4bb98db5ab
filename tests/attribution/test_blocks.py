"""Blocks of one shape meet their layer's inputs without a copy of their bases for every example."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.attribution.blocks import scored_blocks
from tests.oracles.allocations import peak_bytes

WIDE = 40
COUNT = 64


@pytest.fixture(scope="module")
def units():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(WIDE, 24), torch.nn.Tanh(), torch.nn.Linear(24, 3))
    X = torch.randn(COUNT + 4, WIDE, generator=generator)
    y = torch.randint(0, 3, (COUNT + 4,), generator=generator)
    return cv.Task(model, "cross_entropy", (X[:COUNT], y[:COUNT]), (X[COUNT:], y[COUNT:]))


def grouped(task):
    inverse = cv.fit("kfac_by_unit", task).inverse(damping=0.1)
    first = scored_blocks(getattr(inverse, "operator", inverse), task)[0]
    G, I = first.layer.count, first.layer.d_in
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(G, COUNT, 1, I, generator=generator)
    e = torch.randn(G, COUNT, 1, first.layer.d_out, generator=generator)
    return first, a, e


def test_inputs_of_groups_are_in_the_basis_of_each(units):
    block, a, e = grouped(units)
    found, slopes = block.rotated(a, e)
    for k, basis in enumerate(block.right):
        assert torch.allclose(found[k], a[k] @ basis, atol=1e-5)
    assert slopes.shape == e.shape


def test_a_basis_is_copied_for_no_example(units):
    block, a, e = grouped(units)
    held = peak_bytes(lambda: block.rotated(a, e))
    copied = COUNT * block.right.numel() * block.right.element_size()
    assert held < min(copied / 4, 4 * (a.numel() + e.numel()) * 4)
