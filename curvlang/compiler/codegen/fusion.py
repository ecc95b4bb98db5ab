"""Lines of generated code that are one: a square that is only added up is never formed.

A tensor of squares is as large as what is squared, and writing and reading it costs more than the sum. Read
slice by slice into an accumulator that stays in the cache it is read once, and nothing of its size is allocated.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from curvlang.compiler.codegen.emit import Line, names_in
from curvlang.ir.expr import Index

_SQUARE = re.compile(r"(\w+)\.square\(\)")
_SUM = re.compile(r"(\w+)\.sum\(\(([\d, ]+)\)\)")
_EINSUM = re.compile(r"torch\.einsum\('(\w+)->(\w*)', (\w+)\)")
_SQUEEZE = re.compile(r"(\w+)\.squeeze\((\d+)\)")


def fused(lines: Sequence[Line], returned: Collection[str]) -> tuple[Line, ...]:
    """The lines with every square that one sum alone reads taken into that sum.

    Args:
        lines: Lines of a function in their order.
        returned: Names of what the function returns.
    """
    uses = Counter(name for line in lines for name in names_in(line.code))
    uses.update(returned)
    readers = {name: line for line in lines for name in names_in(line.code)}
    found = {line.target: line for line in lines}
    for line in lines:
        square = _SQUARE.fullmatch(line.code)
        if square is not None:
            _take_in(line, square[1], uses, readers, found)
    return tuple(found[line.target] for line in lines if line.target in found)


def _take_in(
    square: Line,
    base: str,
    uses: Counter[str],
    readers: dict[str, Line],
    found: dict[str, Line],
) -> None:
    """Replace a square, the views of it, and the sum that reads it."""
    passed, left = [square], square.indices
    while uses[passed[-1].target] == 1 and passed[-1].target in readers:
        reader = readers[passed[-1].target]
        squeezed = _SQUEEZE.fullmatch(reader.code)
        if squeezed is None:
            kept = _summed(reader, left)
            if kept is not None:
                axes = tuple(k for k, x in enumerate(square.indices) if x not in kept)
                flops = square.flops + reader.flops
                code = f"square_sum({base}, {axes})"
                found[reader.target] = replace(reader, code=code, flops=flops)
                for line in passed:
                    del found[line.target]
            return
        axis = int(squeezed[2])
        left = left[:axis] + left[axis + 1 :]
        passed.append(reader)


def _summed(line: Line, own: tuple[Index, ...]) -> tuple[Index, ...] | None:
    """What is left where a line adds up axes of one tensor and moves none; None for other lines."""
    plain = _SUM.fullmatch(line.code)
    if plain is not None:
        axes = {int(x) for x in plain[2].split(",") if x.strip()}
        return tuple(x for k, x in enumerate(own) if k not in axes)
    einsum = _EINSUM.fullmatch(line.code)
    if einsum is None or len(set(einsum[1])) < len(einsum[1]):
        return None
    kept = [k for k, letter in enumerate(einsum[1]) if letter in einsum[2]]
    in_order = "".join(einsum[1][k] for k in kept) == einsum[2]
    return tuple(own[k] for k in kept) if in_order else None
