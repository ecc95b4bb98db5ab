"""Instructions that are one: a square that is only added up is never formed.

A tensor of squares is as large as what is squared, and writing and reading it costs more than the sum. Read
slice by slice into an accumulator that stays in the cache it is read once, and nothing of its size is allocated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from curvlang.compiler.codegen.instructions import (
    AxisSum,
    Einsum,
    Instruction,
    Operand,
    Operation,
    Pointwise,
    View,
    names_read,
)
from curvlang.ir.expr import Index


def fused(lines: Sequence[Instruction], returned: Collection[str]) -> tuple[Instruction, ...]:
    """The instructions with every square that one sum alone reads taken into that sum.

    Args:
        lines: Instructions of a function in their order.
        returned: Names of what the function returns.
    """
    uses = Counter(name for line in lines for name in names_read(line.operation))
    uses.update(returned)
    readers = {name: line for line in lines for name in names_read(line.operation)}
    readers = {name: line for name, line in readers.items() if uses[name] == 1}
    found = {line.target: line for line in lines}
    for line in lines:
        match line.operation:
            case Pointwise("^", (Operand(name=base, letters=letters), 2.0)) if letters:
                _take_in(line, base, readers, found)
            case _:
                pass
    return tuple(found[line.target] for line in lines if line.target in found)


def _take_in(
    square: Instruction,
    base: str,
    readers: Mapping[str, Instruction],
    found: dict[str, Instruction],
) -> None:
    """Replace a square, the views of it, and the sum that reads it."""
    passed, left = [square], square.indices
    while passed[-1].target in readers:
        reader = readers[passed[-1].target]
        match reader.operation:
            case View(operand=Operand(letters=own), output=output) if set(output) < set(own):
                left = tuple(x for x, letter in zip(left, own, strict=True) if letter in output)
                passed.append(reader)
            case operation:
                kept = _summed(operation, left)
                if kept is None:
                    return
                axes = tuple(k for k, x in enumerate(square.indices) if x not in kept)
                flops = square.flops + reader.flops
                whole = AxisSum(base, axes, squares=True)
                found[reader.target] = replace(reader, operation=whole, flops=flops)
                for line in passed:
                    del found[line.target]
                return


def _summed(operation: Operation, own: tuple[Index, ...]) -> tuple[Index, ...] | None:
    """What is left where axes of one tensor are added up and none is moved; None for the rest."""
    match operation:
        case AxisSum(axes=axes, squares=False):
            return tuple(x for k, x in enumerate(own) if k not in axes)
        case Einsum(operands=(Operand(letters=letters),), output=output):
            kept = [k for k, letter in enumerate(letters) if letter in output]
            in_order = "".join(letters[k] for k in kept) == output
            once = len(set(letters)) == len(letters)
            return tuple(own[k] for k in kept) if in_order and once else None
        case _:
            return None
