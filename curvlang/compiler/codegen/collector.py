"""Collects the instructions of a function under names of their own, none twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from curvlang.compiler.codegen.instructions import (
    Instruction,
    Operation,
    Tensor,
    unused,
)
from curvlang.ir.expr import Index


@dataclass(slots=True)
class Collector:
    """Collects instructions; the same operation is there once.

    Args:
        sizes: Length of every space, the batch's for `n`.
        taken: Names of tensors that are not for intermediate results.
        prefix: First letters of the names of intermediate results.
    """

    sizes: Mapping[str, int]
    taken: Collection[str] = ()
    prefix: str = "x"
    lines: list[Instruction] = field(default_factory=list)
    known: dict[Operation, str] = field(default_factory=dict)

    def size(self, indices: Sequence[Index]) -> int:
        """Number of elements of a tensor with these indices."""
        return prod(self.sizes[x.space] for x in indices)

    def assign(
        self,
        operation: Operation,
        indices: tuple[Index, ...],
        *,
        flops: int = 0,
        view: bool = False,
        side: int = 0,
    ) -> Tensor:
        """A name for the result of an operation; a known operation keeps its name."""
        if operation not in self.known:
            name = unused(f"{self.prefix}{len(self.known) + 1}", self.taken)
            size = self.size(indices)
            self.lines.append(Instruction((name,), operation, indices, size, flops, view, side))
            self.known[operation] = name
        return Tensor(self.known[operation], indices)
