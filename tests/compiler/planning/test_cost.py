"""Predicted costs are those that are counted and measured."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import curvlang as cv
from curvlang.compiler.algebra.normal_form import normalise
from curvlang.compiler.codegen.printer import expression
from curvlang.compiler.explain.mathematics import Latex, Unicode, mathematics
from curvlang.compiler.planning.cost import naive_flops
from curvlang.facade import chains_of, chosen
from curvlang.ir.expr import Binary, BinaryOperator, Index, Number, Reduce, ReductionKind, Ref
from curvlang.ir.functions import FUNCTIONS
from curvlang.language import load, task_text
from curvlang.language.partition import Partition
from curvlang.models.builtin import task_from
from curvlang.runtime.execute import Scope, namespace
from curvlang.runtime.execute import load as load_function
from curvlang.runtime.fit import fit_chains
from curvlang.runtime.limits.footprint import largest
from curvlang.runtime.prepare import prepare
from tests.oracles.allocations import peak_bytes
from tests.small import network, task

MEMORY_WITHIN = 0.25
N, I, I2 = Index("n"), Index("i"), Index("i", 1)


def scope(dtype):
    device = torch.device("cpu")
    return Scope(namespace(dtype, device), dtype, device)


def prepared(name, given):
    return prepare(list(chains_of(chosen(load(name)))), given)


def printed(line):
    return expression(line.operation, str)


def leaf_values(function, plan, block):
    """Random tensors of the shapes that a pass reads."""
    known = plan.schedule.indices
    shape = {name: [block.sizes[x.space] for x in known[name]] for name in function.reads}
    return {name: torch.randn(s, dtype=torch.float64) for name, s in shape.items()}


@pytest.mark.parametrize("positions", [None, 3])
@pytest.mark.parametrize("name", ["ggn", "block_ggn", "kfac", "kfac_reduce", "ekfac", "diagonal"])
def test_contractions_cost_what_the_flop_counter_counts(name, positions):
    given = task(network([5, 6, 4], "tanh"), "cross_entropy", n=9, positions=positions, d_in=5)
    seen = 0
    for plan in prepared(name, given).plans:
        for block in plan.blocks:
            for function in block.passes:
                run = load_function(function, scope(torch.float64))
                values = leaf_values(function, plan, block)
                with FlopCounterMode(display=False) as counter:
                    run(**values)
                planned = sum(line.flops for line in function.lines if line.side)
                assert counter.get_total_flops() == planned
                seen += planned
    assert seen > 0


@pytest.mark.parametrize("name", ["hessian", "ekfac", "ekfac_empirical"])
def test_predicted_memory_is_the_measured_one(name):
    given = task_from(task_text("digits", "<test>"), dtype=torch.float64)
    predicted = largest(prepared(name, given).phases).bytes
    measured = peak_bytes(lambda: fit_chains(list(chains_of(chosen(load(name)))), given))
    assert abs(predicted - measured) <= MEMORY_WITHIN * measured


def test_model_flops_scale_with_the_data():
    small = task(network([5, 6, 4], "tanh"), "cross_entropy", n=8, d_in=5)
    large = task(network([5, 6, 4], "tanh"), "cross_entropy", n=16, d_in=5)
    for first, second in zip(
        cv.explain("ekfac", small).model.values(),
        cv.explain("ekfac", large).model.values(),
        strict=True,
    ):
        assert second == 2 * first > 0


def test_decompositions_have_their_formula():
    given = task(network([5, 6, 4], "tanh", bias=False), "cross_entropy", n=8, d_in=5)
    (plan,) = (p for p in prepared("ekfac", given).plans if p.partition == Partition.LAYER)
    found = {printed(line): line.flops for line in plan.blocks[0].finish[1].lines}
    assert found["eigh(A)"] == FUNCTIONS["eigh"].flops(5, 5) == 9 * 5**3
    assert found["eigh(G)"] == 9 * 6**3


def test_a_direct_reading_is_one_loop_nest():
    product = Binary(BinaryOperator.MULTIPLY, Ref("a", (N, I)), Ref("a", (N, I2)))
    poly = normalise(Reduce(ReductionKind.MEAN, (N,), product))
    assert naive_flops(poly, {"n": 7, "i": 3}) == 2 * 7 * 3 * 3


def test_both_notations_say_the_same():
    a, b = Ref("a", (I,)), Ref("b", (I,))
    total = Binary(BinaryOperator.ADD, a, b)
    square = Binary(BinaryOperator.POWER, total, Number(2))
    mean = Reduce(ReductionKind.MEAN, (I,), square)
    assert mathematics(mean, Unicode()) == "1/|i| Σᵢ (a[i] + b[i])²"
    assert mathematics(mean, Latex()).endswith(r"\sum_{i} \left(a_{i} + b_{i}\right)^{2}")
    ratio = Binary(BinaryOperator.DIVIDE, a, total)
    assert mathematics(ratio, Unicode()) == "a[i] / (a[i] + b[i])"
    assert mathematics(ratio, Latex()) == r"\frac{a_{i}}{a_{i} + b_{i}}"
    nested = Binary(BinaryOperator.MULTIPLY, Reduce(ReductionKind.SUM, (I,), a), total)
    assert mathematics(nested, Unicode()) == "(Σᵢ a[i]) (a[i] + b[i])"


def test_lines_know_the_shortest_side_of_what_they_multiply():
    """EK-FAC with T = 3, O = 6, I = 5."""
    given = task(network([5, 6], "tanh", bias=False), "cross_entropy", n=9, positions=3, d_in=5)
    (plan,) = prepare(list(chains_of(chosen(load("ekfac")))), given, last=True).plans
    found = {printed(line): line.side for f in plan.blocks[0].passes for line in f.lines}
    assert found == {
        "gram(a)": 5,
        "gram(g)": 6,
        "rotate(g, U)": 6,
        "rotate(a, V)": 5,
        "torch.einsum('nrtm,ntk->nrmk', x1, x2)": 3,
        "square_sum(x3, (0, 1))": 0,
    }
