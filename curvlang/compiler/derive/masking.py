"""Means over positions where some are padding: sums weighed by what counts.

In: a chain whose stages take means over `t`. Out: the same chain over two more leaves,

    mean[n,t] x  becomes  mean[n] sum[t] w[n,t] * x,   w = mask / (Σ mask / N)
    mean[t] x    becomes  sum[t] v[n,t] * x,           v = mask / (positions of the example)

so that A of `mean[n,t]` is the mean over the positions that count, and a mean inside an example is over
its own positions. Padding has no gradient: sums over `t` stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from curvlang.compiler.derive.builder import JOINT, OWN, N, T
from curvlang.ir import expr as ir
from curvlang.ir.indices import free_indices, walk, with_children
from curvlang.language.chain import Chain, Stage


def masked(chain: Chain) -> Chain:
    """The chain with its means over positions weighed."""
    return replace(chain, stages=tuple(map(_stage, chain.stages)))


def takes_means(chain: Chain) -> bool:
    """Whether a stage takes a mean over positions."""
    return any(map(_takes, chain.stages))


def _takes(stage: Stage) -> bool:
    others = stage.others if isinstance(stage.others, tuple) else ()
    values = (x.value for x in stage.body if isinstance(x, ir.Define | ir.Yield))
    return any(_mean(x) for value in values for x in walk(value)) or any(map(_takes, others))


def _mean(expr: ir.Expr) -> bool:
    return (
        isinstance(expr, ir.Reduce)
        and expr.kind is ir.ReductionKind.MEAN
        and _position(expr.indices)
    )


def _stage(stage: Stage) -> Stage:
    others = stage.others
    if isinstance(others, tuple):
        others = tuple(map(_stage, others))
    return replace(stage, body=tuple(map(_statement, stage.body)), others=others)


def _statement(statement: ir.BodyStatement) -> ir.BodyStatement:
    match statement:
        case ir.Define(value=value) | ir.Yield(value=value):
            return replace(statement, value=_weighed(value))
        case ir.Space() | ir.Project():
            return statement
        case _:
            assert_never(statement)


def _weighed(expr: ir.Expr) -> ir.Expr:
    match expr:
        case ir.Reduce(kind=ir.ReductionKind.MEAN, indices=bound, body=body) if _position(bound):
            t = next(x for x in bound if x.space == T.space)
            left = tuple(x for x in bound if x != t)
            inner = _weighed(body)
            n = next((x for x in (*left, *free_indices(inner)) if x.space == N.space), None)
            if n is None:
                return replace(expr, body=inner)
            name = JOINT if n in left else OWN
            product = ir.Binary(ir.BinaryOperator.MULTIPLY, ir.Ref(name, (n, t)), inner)
            summed = ir.Reduce(ir.ReductionKind.SUM, (t,), product)
            return ir.Reduce(ir.ReductionKind.MEAN, left, summed) if left else summed
        case ir.Call():
            return expr
        case _:
            return with_children(expr, _weighed)


def _position(bound: tuple[ir.Index, ...]) -> bool:
    return any(x.space == T.space for x in bound)
