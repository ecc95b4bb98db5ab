"""Layers with one input: what follows from that input alone is computed once for all of them.

Queries, keys and values of an attention read the same tensor, so that their A, its eigenvectors V and
the rotated inputs a V are the same. The code of every block stays what it is; in all but the first
block the lines that are known already cost nothing.
"""

from __future__ import annotations

from dataclasses import replace

from curvlang.compiler.codegen.function import Function
from curvlang.compiler.codegen.instructions import (
    Call,
    Gram,
    Operation,
    Rotation,
    names_read,
)
from curvlang.compiler.planning.passes import Schedule
from curvlang.compiler.planning.plan import BlockPlan
from curvlang.ir.functions import FUNCTIONS
from curvlang.ir.indices import names


def shared(block: BlockPlan, whole: Schedule) -> BlockPlan:
    """A block whose input is another one's, without what that one has computed.

    Args:
        block: The block; the other one has the same code.
        whole: Its schedule.
    """
    reading = _Reading(
        {name for name, leaf in whole.leaves.items() if leaf.kind == "a"},
        {*whole.leaves, *whole.indices},
    )
    passes, finish = [], [reading.function(block.finish[0])]
    for one, after in zip(block.passes, block.finish[1:], strict=True):
        passes.append(reading.function(one))
        for part in one.parts:
            reading.define(part.target.name, names(part.value))
        finish.append(reading.function(after))
    return replace(
        block, passes=tuple(passes), finish=tuple(finish), shared=frozenset(reading.decomposed)
    )


class _Reading:
    """The functions of a block in their order, and what follows from its input alone so far."""

    def __init__(self, known: set[str], tensors: set[str]) -> None:
        self.known = known
        self.tensors = tensors
        self.decomposed: set[str] = set()

    def function(self, given: Function) -> Function:
        """The function with the instructions marked that another block has computed."""
        tensors = self.tensors | {line.target for line in given.lines}
        found = []
        for line in given.body:
            reads = tensors.intersection(names_read(line.operation)) - {line.target}
            again = False
            if line.free:
                pass
            elif reads and reads <= self.known:
                self.known.add(line.target)
                again = _remembered(line.operation)
                self.decomposed |= {line.target} & set(given.returned) if again else set()
            else:
                self.known.discard(line.target)
            found.append(replace(line, flops=0, view=True, side=0) if again else line)
        return replace(given, body=tuple(found))

    def define(self, name: str, reads: frozenset[str]) -> None:
        """A sum over the examples."""
        if reads & self.tensors <= self.known:
            self.known.add(name)


def _remembered(operation: Operation) -> bool:
    """Whether a result is kept as long as a block with the same input may ask for it."""
    match operation:
        case Gram() | Rotation():
            return True
        case Call(function=function):
            return bool(FUNCTIONS[function].results)
        case _:
            return False
