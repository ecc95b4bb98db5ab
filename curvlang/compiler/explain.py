"""`curvlang explain`: the plan as text that a person can learn from. Nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from curvlang.compiler.emit import Line
from curvlang.compiler.normal import Poly, Term, factor_indices, normalise
from curvlang.compiler.notation import statement
from curvlang.compiler.plan import BlockPlan, Function, Plan, inside
from curvlang.compiler.program import Result
from curvlang.compiler.structure import (
    BlocksShape,
    DenseShape,
    DiagonalShape,
    EigenBasisShape,
    GramShape,
    IdentityShape,
    KroneckerShape,
    LeafShape,
    LowRankShape,
    ProductShape,
    ProjectedShape,
    Shape,
    SumShape,
)
from curvlang.ir.expr import Define


@dataclass(frozen=True, slots=True)
class Explanation:
    """The plans of a run and what every stage of every chain comes to. Printable."""

    plans: tuple[Plan, ...]
    chains: tuple[tuple[Result, ...], ...]
    headline: str = ""

    @property
    def flops(self) -> int:
        """Floating-point operations of all passes and everything between them."""
        return sum(plan_flops(p) for p in self.plans)

    @property
    def passes(self) -> int:
        """How often the data is read."""
        return max((p.passes for p in self.plans), default=0)

    def __str__(self) -> str:
        """The whole explanation as plain text."""
        return "\n".join(_explain(self))


def plan_flops(plan: Plan) -> int:
    """FLOPs of a plan: pass code scaled from one batch to all examples, the rest once."""
    total = 0.0
    for block in plan.blocks:
        total += sum(f.flops for f in block.passes) * plan.total / plan.batch
        total += sum(f.flops for f in block.finish)
        total += sum(r.code.flops for r in block.results.values())
    return round(total)


def shape_name(shape: Shape) -> str:
    """The structure's noun, as the operators name it."""
    match shape:
        case ProjectedShape(inner=inner):
            return f"Projected ({shape_name(inner)})"
        case IdentityShape():
            return "Identity"
        case DiagonalShape():
            return "Diagonal"
        case KroneckerShape():
            return "Kronecker"
        case EigenBasisShape():
            return "EigenBasis"
        case BlocksShape(unit=unit):
            return "PerOutput" if unit == "output" else "PerInput"
        case LowRankShape():
            return "LowRank"
        case GramShape():
            return "Gram, formed"
        case LeafShape() | DenseShape():
            return "Dense"
        case ProductShape():
            return "MatrixFree"
        case SumShape(terms=terms):
            return " + ".join(map(shape_name, terms))
        case _:
            assert_never(shape)


def _explain(explanation: Explanation) -> Iterator[str]:
    if explanation.headline:
        yield explanation.headline
    count = explanation.passes
    yield f"{count} pass{'es' if count != 1 else ''} over the data, {_count(explanation.flops)}FLOP in all"
    yield ""
    for chain in explanation.chains:
        yield from _chain(chain, explanation.plans)
    for plan in explanation.plans:
        yield from _plan(plan)


def _chain(chain: Sequence[Result], plans: Sequence[Plan]) -> Iterator[str]:
    yield "Chain"
    for result in chain:
        plan = next(p for p in plans if (p.program.partition, p.program.fisher) == result.key)
        found = plan.blocks[0].results[result.value]
        scope = "whole model" if result.partition == "model" else f"each {result.partition}"
        yield f"  {result.label}: {result.stage}"
        yield f"      {statement(result.value)}    ({scope})"
        yield f"      structure: {shape_name(found.shape)}, because {found.shape.reason}"
        yield f"      known after pass {found.level}" if found.level else "      needs no pass"
    yield ""


def _plan(plan: Plan) -> Iterator[str]:
    columns = f", columns {plan.program.fisher}" if plan.program.fisher else ""
    yield f"Program over the {plan.partition}{'s' if plan.partition != 'model' else ''}{columns}"
    yield f"  N = {plan.total}, {plan.batches} batches of at most {plan.batch} examples"
    for definition in plan.program.definitions:
        note = "    # contracted in place, never formed"
        inlined = isinstance(definition, Define) and definition.targets[0].name in (
            plan.program.inlined
        )
        yield f"    {statement(definition)}{note if inlined else ''}"
    shown: dict[str, str] = {}
    for block in plan.blocks:
        code = "".join(f.source for f in (*block.passes, *block.finish))
        sizes = ", ".join(f"{k} = {v}" for k, v in block.sizes.items() if k != "n")
        yield ""
        yield f"  block {block.geometry.name}: {sizes}"
        if code in shown:
            yield f"    the same code as block {shown[code]}"
            continue
        shown[code] = block.geometry.name
        yield from _block(plan, block)
    yield ""


def _block(plan: Plan, block: BlockPlan) -> Iterator[str]:
    naive = _naive_flops(plan, block)
    for number, function in enumerate(block.passes, 1):
        yield (
            f"    pass {number}: {_count(function.flops)}FLOP a batch (a direct reading of the "
            f"formulas: {_count(naive[number - 1])}FLOP), largest result "
            f"{_count(function.largest * plan.itemsize)}B, together "
            f"{_count(function.elements * plan.itemsize)}B"
        )
        yield from _code(function)
        yield from _finish(plan, block.finish[number], f"after pass {number}")


def _finish(plan: Plan, function: Function, title: str) -> Iterator[str]:
    if function.returns:
        yield f"    {title}: {_count(function.flops)}FLOP"
        yield from _code(function)


def _code(function: Function) -> Iterator[str]:
    costs = {f"{line.target} = {line.code}": line for line in function.lines}
    for text in function.source.rstrip().split("\n"):
        line = costs.get(text.strip())
        note = f"  # {_shape(line)}" if line is not None and not line.view else ""
        yield f"      {text}{note}"


def _shape(line: Line) -> str:
    axes = ",".join(map(str, line.indices))
    return f"[{axes}] {_count(line.flops)}FLOP"


def _naive_flops(plan: Plan, block: BlockPlan) -> list[int]:
    """FLOPs of one batch when every contraction is one loop nest over all of its indices."""
    totals = [0] * plan.passes
    for accumulator in plan.schedule.accumulators:
        totals[accumulator.number - 1] += _naive(normalise(accumulator.value), block.sizes)
    for original, (level, result) in zip(
        plan.schedule.originals, plan.schedule.results, strict=True
    ):
        found = inside(block.results[original].shape)
        if isinstance(found, GramShape | DenseShape) and level:
            sizes = block.sizes
            totals[level - 1] += _naive(normalise(result.value), sizes)
    return totals


def _naive(poly: Poly, sizes: Mapping[str, int]) -> int:
    return sum(_naive_term(term, sizes) for term in poly)


def _naive_term(term: Term, sizes: Mapping[str, int]) -> int:
    from curvlang.compiler.normal import Elementwise, Power

    axes = {x for f in term.factors for x in factor_indices(f)}
    points = 1
    for x in axes:
        points *= sizes.get(x.space, 1)
    inner = sum(
        _naive(poly, sizes) * points // max(1, _points(poly, sizes))
        for f in term.factors
        if isinstance(f, Power | Elementwise)
        for poly in ((f.base,) if isinstance(f, Power) else f.arguments)
    )
    return points * max(1, len(term.factors)) + inner


def _points(poly: Poly, sizes: Mapping[str, int]) -> int:
    from curvlang.compiler.normal import poly_free

    total = 1
    for x in poly_free(poly):
        total *= sizes.get(x.space, 1)
    return total


def _count(value: float) -> str:
    """A number with its decimal prefix: `3.4 M`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} "
