"""Transforms with the arguments of a stage written in, each made once, and the limit for a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from curvlang.ir.expr import BodyStatement, Define, Expr, Space, Yield
from curvlang.ir.indices import walk
from curvlang.language.bodies.repeats import rounds
from curvlang.language.bodies.transforms import decides, specialise
from curvlang.language.chain import Stage, Value
from curvlang.language.syntax import nodes as s

MOST_OPERATIONS = 200_000
"""Operations of all chains of a file, rounds unrolled: some hundred times the longest paper's."""


@dataclass(slots=True)
class Readings:
    """The bodies of transforms with choices made and rounds unrolled.

    Args:
        operations: Operations of the stages of all chains so far.
        full: Whether it has been said that they come to too much.
    """

    operations: int = 0
    full: bool = False
    _done: dict[tuple[object, ...], tuple[BodyStatement, ...]] = field(default_factory=dict)
    _sizes: dict[int, tuple[object, int]] = field(default_factory=dict)

    def size(self, body: Sequence[s.BodySyntax], given: Mapping[str, Value]) -> int:
        """Operations of a body with these arguments, counted without unrolling it."""
        total = 0
        for statement in body:
            match statement:
                case s.When():
                    chosen = statement.then if decides(statement, given) else statement.otherwise
                    total += self.size(chosen, given)
                case s.Repeat():
                    total += rounds(statement, given) * self.size(statement.body, given)
                case Define(value=value) | Yield(value=value) | Space(length=value):
                    total += self._nodes(value)
                case _:
                    total += 1
        return total

    def _nodes(self, expr: Expr) -> int:
        if id(expr) not in self._sizes:
            # The expression stays with its count, so that no other takes its identity.
            self._sizes[id(expr)] = (expr, 1 + sum(1 for _ in walk(expr)))
        return self._sizes[id(expr)][1]

    def read(
        self, transform: s.TransformDef, given: Mapping[str, Value]
    ) -> tuple[BodyStatement, ...]:
        """The statements of a stage."""
        key = (id(transform), *((k, type(v), v) for k, v in sorted(given.items())))
        if key not in self._done:
            self._done[key] = specialise(transform.body, given, needs=transform.needs)
        return self._done[key]

    def takes(self, operations: int) -> bool:
        """Count a stage in; whether the file still stays below the limit."""
        self.operations += operations
        return self.operations <= MOST_OPERATIONS

    def inherits(self, stages: Sequence[Stage]) -> bool:
        """Count in the stages of the curvature that a chain starts from."""
        return self.takes(sum(self.of_stage(stage) for stage in stages))

    def of_stage(self, stage: Stage) -> int:
        """Operations of a stage that has been read."""
        if id(stage) not in self._sizes:
            self._sizes[id(stage)] = (stage, 1 + self.size(stage.body, {}))
        return self._sizes[id(stage)][1]
