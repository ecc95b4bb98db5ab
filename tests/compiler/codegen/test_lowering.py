"""Gram matrices by groups of columns and products with a matrix: the same numbers, fewer operations."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from curvlang.compiler.codegen.lowering import GROUP, ROWS, gram_flops, groups, starts
from curvlang.facade import chains_of, chosen
from curvlang.language import load
from curvlang.models.layers import OneHot
from curvlang.runtime.execute import Scope, namespace
from curvlang.runtime.execute import load as load_function
from curvlang.runtime.kernels.einsums import gram, rotate
from curvlang.runtime.prepare import prepare
from tests.small import network, task


def scope(dtype):
    device = torch.device("cpu")
    return Scope(namespace(dtype, device), dtype, device)


def columns(*shape):
    """[N, R, …] as columns come back from a model: r before n in memory."""
    generator = torch.Generator().manual_seed(0)
    held = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return held.transpose(0, 1)


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_gram_matrix_does_not_depend_on_its_groups(count):
    x = columns(3, 5, 2, 23)
    expected = torch.einsum("nrto,nrtp->op", x, x)
    found = gram(x, count)
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
    if count > 1:
        assert torch.equal(found, found.T)
    assert counted(lambda: gram(x, count)) == gram_flops(30, 23, count)
    assert starts(23, count)[-1] == 23


def test_groups_save_what_the_triangle_saves():
    rows, width = 1000, 4 * GROUP
    assert groups(width, rows) == 4
    assert gram_flops(rows, width, 4) * 8 == 2 * rows * width**2 * 5
    # Narrow matrices, and few rows, are multiplied at once.
    assert groups(2 * GROUP - 1, rows) == groups(width, 10) == 1


def test_rows_times_a_matrix_keep_their_axes():
    x = columns(3, 5, 2, 7)
    matrix = torch.randn(7, 4, dtype=torch.float64)
    found = rotate(x, matrix)
    assert torch.allclose(found, torch.einsum("nrto,om->nrtm", x, matrix), rtol=1e-13, atol=1e-13)
    # Held as x is: nothing is moved to be multiplied, and a sum over r is one over whole rows.
    assert found.stride() == (8, 40, 4, 1)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3), (2, 1, 0, 3)])
def test_nothing_is_copied(order):
    x = torch.randn(3, 5, 2, 7).permute(*order)
    with torch.autograd.profiler.profile() as seen:
        gram(x)
        rotate(x, torch.ones(7, 7))
    assert not any("copy" in e.name for e in seen.function_events)


def test_what_stands_for_a_tensor_is_contracted_by_its_parts():
    a = OneHot(torch.tensor([[[1]], [[2]], [[1]]]), torch.ones(3, 1, 1), 4)
    assert torch.equal(gram(a), torch.diag(torch.tensor([0.0, 2.0, 1.0, 0.0])))
    matrix = torch.arange(8.0).reshape(4, 2)
    assert torch.equal(rotate(a, matrix), a.dense() @ matrix)


def test_a_wide_layer_costs_what_the_flop_counter_counts():
    width, examples = 2 * GROUP, 2048
    t = task(network([3, width, 2]), "cross_entropy", n=examples)
    prepared = prepare(list(chains_of(chosen(load("kfac"))))[-1:], t, last=True)
    (plan,) = prepared.plans
    (function,) = (b.passes[0] for b in plan.blocks if b.geometry.sizes["i"] == width + 1)
    known = plan.schedule.indices
    (block,) = (b for b in plan.blocks if b.geometry.sizes["i"] == width + 1)
    values = {x: torch.randn([block.sizes[i.space] for i in known[x]]) for x in function.reads}
    run = load_function(function, scope(torch.float32))
    found = counted(lambda: run(**values))
    assert found == sum(line.flops for line in function.lines if line.side)
    assert plan.batch >= ROWS
    # G of two outputs and two columns, and A: three quarters of the whole product.
    whole = 2 * plan.batch * (width + 1) ** 2
    assert 0.7 * whole < found < 0.8 * whole
