"""Functions of generated code: what they read and return, their instructions, their text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from curvlang.compiler.codegen.instructions import Instruction
from curvlang.compiler.codegen.printer import source
from curvlang.ir.expr import Expr, Target


@dataclass(frozen=True, slots=True)
class Part:
    """One sum of a pass: its name and indices, its formula, and the instructions that are its own."""

    target: Target
    value: Expr
    lines: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A piece of generated code.

    Args:
        name: Its name.
        reads: Tensors that it takes, in this order.
        returned: Tensors that it returns, by what they are called there.
        body: What it does.
        source: The same as text: after the head one line for each instruction, then `return`.
        parts: The sums of a pass.
    """

    name: str
    reads: tuple[str, ...]
    returned: Mapping[str, str]
    body: tuple[Instruction, ...]
    source: str
    parts: tuple[Part, ...] = ()

    @property
    def lines(self) -> tuple[Instruction, ...]:
        """The instructions that cost anything."""
        return tuple(line for line in self.body if not line.free)

    @property
    def flops(self) -> int:
        """Floating-point operations of one call, for all blocks of one shape."""
        return sum(line.count * line.flops for line in self.lines)

    @property
    def elements(self) -> int:
        """Elements of everything it allocates; all of it lives until the call returns."""
        return sum(line.count * line.elements for line in self.lines if not line.view)

    @property
    def largest(self) -> int:
        """Elements of the largest result."""
        return max((line.elements for line in self.lines if not line.view), default=0)


def function(
    name: str, reads: Collection[str], returned: Mapping[str, str], body: Sequence[Instruction]
) -> Function:
    """A function with its text; it takes its tensors in the order of their names."""
    order = tuple(sorted(reads))
    return Function(name, order, returned, tuple(body), source(name, order, body, returned))
