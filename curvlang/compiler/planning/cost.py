"""What a plan costs before it runs: floating-point operations, bytes moved, elements held.

A multiply and an add count as two operations. A decomposition of an n × n matrix has a formula of
its own (`DECOMPOSITIONS`). Bytes are those that every line reads and writes once, as if nothing
stayed in a cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from curvlang.compiler.algebra.terms import (
    Elementwise,
    Factor,
    Poly,
    Power,
    Term,
    factor_indices,
    poly_free,
)
from curvlang.compiler.codegen.function import Function
from curvlang.compiler.codegen.instructions import Instruction, names_read
from curvlang.compiler.planning.plan import BlockPlan, Plan
from curvlang.ir.expr import Index


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations and bytes moved; costs add up."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Both."""
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: float) -> Cost:
        """That many times."""
        return Cost(round(self.flops * count), round(self.bytes * count))


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    found = Cost()
    for cost in costs:
        found += cost
    return found


def function_cost(function: Function, known: Mapping[str, int], itemsize: int) -> Cost:
    """One call of a generated function.

    Args:
        function: The function.
        known: Elements of every tensor that it may read, by name.
        itemsize: Bytes of a number.
    """
    elements = sum(moved for _, moved in line_elements(function, known))
    return Cost(function.flops, elements * itemsize)


def line_elements(
    function: Function, known: Mapping[str, int]
) -> Iterator[tuple[Instruction, int]]:
    """Every line that computes something, with the elements that it reads and writes.

    Args:
        function: The function.
        known: Elements of every tensor that it may read, by name.
    """
    sizes = {**known, **{line.target: line.count * line.elements for line in function.lines}}
    for line in function.lines:
        if not line.view:
            reads = set(names_read(line.operation)) - {line.target}
            yield line, line.count * line.elements + sum(sizes[x] for x in reads)


def known_elements(plan: Plan, block: BlockPlan) -> dict[str, int]:
    """Elements of every leaf (of one batch), accumulator and finished statistic of a block, or of all of one shape."""
    return {
        name: block.copies(name) * elements(own, block.sizes)
        for name, own in plan.schedule.indices.items()
    }


def elements(indices: Iterable[Index], sizes: Mapping[str, int]) -> int:
    """Elements of a tensor with these indices."""
    return prod(sizes.get(x.space, 1) for x in indices)


def pass_cost(plan: Plan, number: int) -> Cost:
    """Pass `number` over all examples and blocks."""
    share = plan.total / plan.batch
    return total(
        function_cost(b.passes[number - 1], known_elements(plan, b), plan.itemsize).times(share)
        for b in plan.blocks
    )


def between_cost(plan: Plan) -> Cost:
    """Everything between and after the passes, decompositions included, in float64."""
    costs: list[Cost] = []
    for block in plan.blocks:
        known = known_elements(plan, block)
        codes = (*block.finish, *(r.code for r in block.results.values()))
        costs.extend(function_cost(f, known, 8) for f in codes)
    return total(costs)


def plan_cost(plan: Plan) -> Cost:
    """A whole plan: passes over all examples, and what stands between them."""
    passes = total(pass_cost(plan, k) for k in range(1, plan.passes + 1))
    return passes + between_cost(plan)


def naive_flops(poly: Poly, sizes: Mapping[str, int]) -> int:
    """Operations when every contraction is one loop nest over all of its indices."""
    return sum(_naive_term(term, sizes) for term in poly)


def _naive_term(term: Term, sizes: Mapping[str, int]) -> int:
    axes = {x for f in term.factors for x in factor_indices(f)}
    points = elements(axes, sizes)
    inner = sum(_naive_factor(f, points, sizes) for f in term.factors)
    return points * max(1, len(term.factors)) + inner


def _naive_factor(factor: Factor, points: int, sizes: Mapping[str, int]) -> int:
    """A power or a function is evaluated again at every point of the loop nest around it."""
    match factor:
        case Power(base=base):
            inside: tuple[Poly, ...] = (base,)
        case Elementwise(arguments=arguments):
            inside = arguments
        case _:
            return 0
    return sum(
        naive_flops(poly, sizes) * points // max(1, elements(poly_free(poly), sizes))
        for poly in inside
    )
