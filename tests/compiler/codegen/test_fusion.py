"""Squares that are only added up: taken into the sum, and the sum is the same."""

from __future__ import annotations

from math import prod

import pytest
import torch

from curvlang.compiler.codegen.emit import Line
from curvlang.compiler.codegen.fusion import fused
from curvlang.ir.expr import Index
from curvlang.runtime.kernels import einsums as kernels
from curvlang.runtime.kernels.einsums import square_sum
from tests.models.support import assert_different, assert_equal

SIZES = {"n": 5, "r": 1, "m": 3, "k": 4}


def line(target: str, code: str, letters: str, flops: int = 0) -> Line:
    own = tuple(map(Index, letters))
    view = "squeeze" in code or "permute" in code
    return Line(target, code, own, prod(SIZES[x] for x in letters), flops, view)


SQUARED = [
    line("x3", "torch.einsum('nrtm,ntk->nrmk', x1, x2)", "nrmk", 7),
    line("x4", "x3.square()", "nrmk", 60),
    line("x5", "x4.squeeze(1)", "nmk"),
]


def test_a_square_is_taken_into_its_sum():
    found = fused([*SQUARED, line("x6", "torch.einsum('nmk->mk', x5)", "mk", 60)], ["x6"])
    assert [x.code for x in found] == [SQUARED[0].code, "square_sum(x3, (0, 1))"]
    assert found[-1].flops == 120
    assert found[-1].target == "x6"
    assert found[-1].indices == tuple(map(Index, "mk"))
    summed = [SQUARED[0], SQUARED[1], line("x5", "x4.sum((0, 1))", "mk", 60)]
    assert fused(summed, ["x5"])[-1].code == "square_sum(x3, (0, 1))"


@pytest.mark.parametrize(
    "last",
    [
        [line("x6", "torch.einsum('nmk->km', x5)", "km", 60)],
        [line("x6", "x5.permute(1, 2, 0)", "mkn")],
        [line("x6", "torch.einsum('nmk->mk', x5)", "mk", 60), line("x7", "x4 * 2.0", "nrmk", 60)],
        [line("x6", "torch.einsum('nmk,mk->n', x5, S)", "n", 60)],
    ],
)
def test_squares_that_something_else_reads_are_formed(last):
    lines = [*SQUARED, *last]
    assert fused(lines, [x.target for x in last]) == tuple(lines)


def test_a_square_that_is_returned_is_formed():
    lines = [*SQUARED, line("x6", "torch.einsum('nmk->mk', x5)", "mk", 60)]
    assert fused(lines, ["x6", "x4"]) == tuple(lines)


SHAPES = [
    ((70, 6, 5), (0,)),
    ((4, 3, 7), (1,)),
    ((4, 1, 3, 7), (0, 1)),
    ((3, 4, 5), (0, 2)),
    ((0, 3), (0,)),
]


@pytest.mark.parametrize(("slice_", "buffer"), [(1, 4), (10**9, 4), (10**9, 10**9)])
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
@pytest.mark.parametrize("moved", [False, True])
def test_sums_of_squares(monkeypatch, shape, axes, moved, slice_, buffer):
    monkeypatch.setattr(kernels, "SLICE", slice_)
    monkeypatch.setattr(kernels, "BUFFER", buffer)
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    if moved:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    before = x.clone()
    assert_equal(square_sum(x, axes), x.square().sum(axes))
    assert torch.equal(x, before)
    if x.numel():
        assert_different(square_sum(x, axes), x.sum(axes))


def test_many_squares_are_added_up_without_losing_them():
    """Added up one by one in float32, a hundred thousand squares drift by more than this."""
    x = torch.randn(20_000, 128, generator=torch.Generator().manual_seed(0))
    exact = x.double().square().sum(0)
    for width in (128, 1):
        found = square_sum(x[:, :width], (0,)).double()
        assert float(((found - exact[:width]) / exact[:width]).abs().max()) < 2e-6


def test_a_pass_forms_no_squares():
    import curvlang as cv
    from curvlang.facade import chains_of, chosen
    from curvlang.runtime.prepare import prepare
    from tests.small import network, task

    made = task(network([3, 4, 3]), "cross_entropy", positions=2)
    (plan,) = prepare(chains_of(chosen(cv.load("ekfac"))), made, last=True).plans
    code = plan.blocks[0].passes[1].source
    assert "square_sum(" in code
    assert ".square()" not in code
