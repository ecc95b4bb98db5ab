"""Squares that are only added up: taken into the sum, and the sum is the same."""

from __future__ import annotations

from math import prod

import pytest
import torch

from curvlang.compiler.codegen.fusion import fused
from curvlang.compiler.codegen.instructions import (
    AxisSum,
    Einsum,
    Instruction,
    Operand,
    Operation,
    Pointwise,
    View,
)
from curvlang.ir.expr import Index
from curvlang.runtime.kernels import einsums as kernels
from curvlang.runtime.kernels.einsums import square_sum
from tests.models.support import assert_different, assert_equal

SIZES = {"n": 5, "r": 1, "m": 3, "k": 4}


def line(target: str, operation: Operation, letters: str, flops: int = 0) -> Instruction:
    own = tuple(map(Index, letters))
    size = prod(SIZES[x] for x in letters)
    return Instruction((target,), operation, own, size, flops, isinstance(operation, View))


def einsum(output: str, *operands: tuple[str, str]) -> Einsum:
    return Einsum(tuple(Operand(*x) for x in operands), output)


def square(name: str, letters: str) -> Pointwise:
    return Pointwise("^", (Operand(name, letters), 2.0), letters)


SQUARED = [
    line("x3", einsum("nrmk", ("x1", "nrtm"), ("x2", "ntk")), "nrmk", 7),
    line("x4", square("x3", "nrmk"), "nrmk", 60),
    line("x5", View(Operand("x4", "nrmk"), "nmk"), "nmk"),
]
SUMMED = line("x6", einsum("mk", ("x5", "nmk")), "mk", 60)


def test_a_square_is_taken_into_its_sum():
    found = fused([*SQUARED, SUMMED], ["x6"])
    assert found[0] == SQUARED[0]
    (last,) = found[1:]
    assert last.operation == AxisSum("x3", (0, 1), squares=True)
    assert last.flops == 120
    assert last.target == "x6"
    assert last.indices == tuple(map(Index, "mk"))
    summed = [*SQUARED[:2], line("x5", AxisSum("x4", (0, 1)), "mk", 60)]
    assert fused(summed, ["x5"])[-1].operation == AxisSum("x3", (0, 1), squares=True)


@pytest.mark.parametrize(
    "last",
    [
        [line("x6", einsum("km", ("x5", "nmk")), "km", 60)],
        [line("x6", View(Operand("x5", "nmk"), "mkn"), "mkn")],
        [SUMMED, line("x7", Pointwise("*", (Operand("x4", "nrmk"), 2.0), "nrmk"), "nrmk", 60)],
        [line("x6", einsum("n", ("x5", "nmk"), ("S", "mk")), "n", 60)],
    ],
)
def test_squares_that_something_else_reads_are_formed(last):
    lines = [*SQUARED, *last]
    assert fused(lines, [x.target for x in last]) == tuple(lines)


def test_other_powers_are_formed():
    cubed = Pointwise("^", (Operand("x3", "nrmk"), 3.0), "nrmk")
    lines = [SQUARED[0], line("x4", cubed, "nrmk", 60), line("x5", AxisSum("x4", (0, 1)), "mk")]
    assert fused(lines, ["x5"]) == tuple(lines)


def test_a_square_that_is_returned_is_formed():
    lines = [*SQUARED, SUMMED]
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
