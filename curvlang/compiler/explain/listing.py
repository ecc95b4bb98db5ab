"""The passes of a plan as text: every contraction with its cost, and the torch code that runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curvlang.compiler.algebra.normal_form import normalise
from curvlang.compiler.codegen.function import Function, Part
from curvlang.compiler.codegen.instructions import Instruction
from curvlang.compiler.explain.mathematics import Unicode, equation
from curvlang.compiler.explain.repeated_passes import repeated
from curvlang.compiler.planning.cost import (
    Cost,
    function_cost,
    known_elements,
    naive_flops,
    pass_cost,
)
from curvlang.compiler.planning.plan import BlockPlan, Plan
from curvlang.diagnostics.notebook import text_table
from curvlang.ir.expr import Define, Index
from curvlang.language.partition import Partition


def count(value: float, unit: str = "") -> str:
    """A number with its decimal prefix: `3.4 M`, `3.4 MFLOP`."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def binary(value: float) -> str:
    """Bytes with their binary prefix: `3.4 MiB`."""
    for prefix, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.0f} B"


def listing(plan: Plan, *, code: bool = True) -> Iterator[str]:
    """One program: its blocks, each with its passes; blocks with the same code are shown once."""
    columns = f", columns {plan.program.fisher}" if plan.program.fisher else ""
    what = "the model" if plan.partition == Partition.MODEL else f"the {plan.partition.plural}"
    if plan.program.others:
        what = "the other parameters, whose gradients alone are known"
    if not plan.blocks:
        return
    yield f"Program over {what}{columns}"
    if not plan.passes:
        yield "  reads no data"
        yield ""
        return
    batches = f"{plan.batches} batch{'es' if plan.batches > 1 else ''}"
    yield f"  {plan.total} examples in {batches} of at most {plan.batch}"
    if plan.kept:
        yield f"  leaves kept between passes, {binary(plan.kept)}"
        yield f"    so that the model runs once and not {plan.passes} times; less `memory` does without"
    elif plan.kept == 0:
        yield "  leaves recomputed in each pass"
    for number in range(1, plan.passes + 1):
        yield f"  pass {number}: {cost_text(pass_cost(plan, number))}"
    shown: dict[str, str] = {}
    for block in plan.blocks:
        source = "".join(f.source for f in (*block.passes, *block.finish))
        sizes = ", ".join(f"{k} = {v}" for k, v in block.sizes.items() if k != "n")
        yield ""
        yield f"  block {block.geometry.name}: {sizes}"
        if block.count > 1:
            yield f"    {block.count} blocks of one shape, computed together; costs below are of all, formulas and sizes of one"
            if alike := sorted(
                block.repeated & plan.schedule.indices.keys() - plan.schedule.leaves.keys()
            ):
                yield f"    the same in all of them, computed and held once: {', '.join(alike)}"
        if block.geometry.shares:
            yield f"    its input is that of {block.geometry.shares}: products and decompositions of it are that block's"
        if source in shown:
            yield f"    the same code as block {shown[source]}"
            continue
        shown[source] = block.geometry.name
        yield from _block(plan, block, code)
    yield ""


def cost_text(cost: Cost) -> str:
    """Operations, bytes and how many operations there are for each byte."""
    intensity = f", {cost.flops / cost.bytes:.2g} FLOP/B" if cost.bytes else ""
    return f"{count(cost.flops, 'FLOP')}, {count(cost.bytes, 'B')} moved{intensity}"


def _block(plan: Plan, block: BlockPlan, code: bool) -> Iterator[str]:
    known = known_elements(plan, block)
    again = repeated(block)
    for number, function in enumerate(block.passes, 1):
        if number in again:
            first, names = again[number]
            swapped = ", ".join(f"{new} for {old}" for new, old in names)
            yield f"    pass {number}: the same code as pass {first}, with {swapped}"
            continue
        if function.parts:
            yield f"    pass {number}, a batch of {plan.batch}"
            yield from _contractions(plan, function.parts, block)
            if code:
                yield from _code(function)
        after = block.finish[number]
        if after.returned:
            yield f"    after pass {number}: {cost_text(function_cost(after, known, 8))}"
            yield from _definitions(plan, after)
            if code:
                yield from _code(after)


def _contractions(plan: Plan, parts: Sequence[Part], block: BlockPlan) -> Iterator[str]:
    """A table: the formula, what a direct reading costs, what the chosen order costs."""
    head = ("", "direct", "chosen", "ratio", "largest intermediate")
    rows = []
    for part in parts:
        direct = block.count * naive_flops(normalise(part.value), block.sizes)
        chosen = sum(line.count * line.flops for line in part.lines)
        largest = max((x for x in part.lines if not x.view), key=lambda x: x.elements, default=None)
        held = (
            ""
            if largest is None
            else f"{axes(largest.indices)} {binary(largest.elements * plan.itemsize)}"
        )
        ratio = f"{direct / chosen:.3g}" if chosen else "shared"
        note = "  (the curvature is contracted in place, never formed)"
        formed = part.target.name not in plan.program.inlined
        text = equation(Define((part.target,), part.value), Unicode())
        yield f"      {text}{'' if formed else note}"
        rows.append((part.target.name, count(direct), count(chosen), ratio, held))
    for line in text_table(head, rows, right=(1, 2, 3)).splitlines():
        yield f"      {line}"


def _definitions(plan: Plan, function: Function) -> Iterator[str]:
    for _, define in plan.schedule.finished:
        if any(t.name in function.returned for t in define.targets):
            yield f"      {equation(define, Unicode())}"


def _code(function: Function) -> Iterator[str]:
    """The generated source; every line that allocates says what, and what it costs."""
    head, *lines, last = function.source.rstrip().split("\n")
    notes = ["" if line.free else _note(line) for line in function.body]
    rows = [(head, ""), *zip(lines, notes, strict=True), (last, "")]
    width = min(72, max(len(text) for text, _ in rows))
    for text, note in rows:
        yield f"      | {text.ljust(width)}  # {note}" if note else f"      | {text}"


def _note(line: Instruction) -> str:
    if line.view:
        return f"{axes(line.indices)} view"
    return f"{axes(line.indices)} {count(line.flops, 'FLOP')}" if line.flops else axes(line.indices)


def axes(indices: Sequence[Index]) -> str:
    """Axes with as few primes as tell them apart: `[n,o',o]`; numbers inside the compiler are its own."""
    primes: dict[Index, Index] = {}
    taken: dict[str, int] = {}
    for index in sorted(set(indices), key=lambda x: x.primes):
        primes[index] = Index(index.space, taken.get(index.space, 0))
        taken[index.space] = primes[index].primes + 1
    return f"[{','.join(str(primes[x]) for x in indices)}]"
