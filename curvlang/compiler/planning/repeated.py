"""Blocks of one shape: what reads nothing that differs between them is computed, and held, once for all.

Where a layer's outputs are cut, all blocks have its inputs: A, its eigenvectors and its products are one tensor
without an index of the blocks. The generated code stays that of one block.
"""

from __future__ import annotations

from dataclasses import replace

from curvlang.compiler.codegen.function import Function
from curvlang.compiler.codegen.instructions import names_read
from curvlang.compiler.planning.passes import Schedule
from curvlang.compiler.planning.plan import BlockPlan


def counted(block: BlockPlan, whole: Schedule) -> BlockPlan:
    """Blocks of one shape with every instruction counted as often as it is computed.

    Args:
        block: Their plan, as that of one.
        whole: Its schedule.
    """
    if block.count == 1:
        return block
    alike = {name for name, leaf in whole.leaves.items() if leaf.kind in block.geometry.repeated}
    finish, passes = [_counted(block.finish[0], alike, block.count)], []
    for one, after in zip(block.passes, block.finish[1:], strict=True):
        passes.append(_counted(one, alike, block.count))
        finish.append(_counted(after, alike, block.count))
    results = {
        value: replace(result, code=_counted(result.code, set(alike), block.count))
        for value, result in block.results.items()
    }
    return replace(
        block,
        passes=tuple(passes),
        finish=tuple(finish),
        results=results,
        repeated=frozenset(alike),
    )


def _counted(given: Function, alike: set[str], count: int) -> Function:
    """A function's instructions with their counts; what it returns is added to what is alike."""
    same, body = set(alike), []
    for line in given.body:
        one = same.issuperset(names_read(line.operation))
        (same.update if one else same.difference_update)(line.targets)
        body.append(replace(line, count=1 if one else count))
    alike |= {name for name, tensor in given.returned.items() if tensor in same}
    lines = {line.target: line for line in body}
    parts = tuple(
        replace(part, lines=tuple(lines[line.target] for line in part.lines))
        for part in given.parts
    )
    return replace(given, body=tuple(body), parts=parts)
