"""The tensor program of a run: every statement once, however many curvatures share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.ir.expr import Define, Index, Space, Yield
from curvlang.language.partition import Partition as Partition


@dataclass(frozen=True, slots=True)
class Fisher:
    """Which columns the loss-curvature factor has: `exact`, `mc` with `samples`, `empirical`."""

    kind: str = "exact"
    samples: int = 1

    def __str__(self) -> str:
        return f"mc, {self.samples}" if self.kind == "mc" else self.kind


Key: TypeAlias = "tuple[Partition, Fisher | None, bool]"
"""Partition, columns, and whether the blocks are those of other parameters."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor that the model gives: which one, with which indices and which columns."""

    kind: str
    indices: tuple[Index, ...]
    fisher: Fisher | None = None

    @property
    def per_example(self) -> bool:
        """Whether it has the example index, so that it streams through in batches."""
        return any(x.space == "n" for x in self.indices)


@dataclass(frozen=True, slots=True)
class Result:
    """The curvature after one stage: its program, what it defines first, what it yields.

    `doc` is the stage's own line of documentation with its source.
    `others` says that it is computed for parameters whose `a` and `g` mean nothing by themselves, and
    `beside` is such a result for the parameters that this one leaves out.
    `builtin` says that it is the Hessian or the Gauss-Newton matrix itself, whole or in blocks, of
    which products are known without its entries.
    """

    label: str
    stage: str
    partition: Partition
    fisher: Fisher | None
    value: Yield
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    definitions: tuple[Define | Space, ...] = ()
    doc: str = ""
    builtin: bool = False
    others: bool = False
    beside: Result | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> Key:
        """Which program computes it."""
        return self.partition, self.fisher, self.others

    @property
    def parts(self) -> tuple[Result, ...]:
        """Itself, and what is beside it."""
        return (self,) if self.beside is None else (self, self.beside)


@dataclass(frozen=True, slots=True)
class Program:
    """Statements in single-assignment form over one partition's leaves.

    Every name and every space is defined once and before it is read; a stage that redefines `a`
    makes `a_2`, a second space called `k` is `k2`. `inlined` says which definitions contract the
    curvature so far without forming it.
    """

    partition: Partition
    fisher: Fisher | None
    leaves: Mapping[str, Leaf]
    definitions: tuple[Define | Space, ...]
    results: tuple[Yield, ...]
    inlined: frozenset[str] = frozenset()
    others: bool = False

    @property
    def key(self) -> Key:
        """What its results have in common: `Result.key`."""
        return self.partition, self.fisher, self.others
