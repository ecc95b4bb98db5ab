"""Which pass over the data computes what: the depth of the dependency graph, never chosen by hand.

In: a program in single-assignment form. Out: a schedule, in which every reduction over examples
is an accumulator of the first pass where all that it reads is known, and everything else is
computed between passes from finished values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from curvlang.compiler.normal import data_reductions
from curvlang.compiler.program import Leaf, Program
from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.ir.expr import (
    Apply,
    Binary,
    Call,
    Define,
    Delta,
    Expr,
    Index,
    Negate,
    Number,
    Reduce,
    Ref,
    Size,
    Space,
    Yield,
)
from curvlang.ir.indices import free_indices, names, substitute, walk


@dataclass(frozen=True, slots=True)
class Accumulator:
    """`name[indices] = value`, a reduction over examples, summed up batch by batch in one pass."""

    name: str
    indices: tuple[Index, ...]
    value: Reduce
    number: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Accumulators with their pass, definitions of finished values with the pass they follow.

    `results` stand in the order of the program's own yields, which `originals` repeats.
    """

    accumulators: tuple[Accumulator, ...]
    finished: tuple[tuple[int, Define], ...]
    results: tuple[tuple[int, Yield], ...]
    leaves: Mapping[str, Leaf]
    originals: tuple[Yield, ...] = ()

    @property
    def passes(self) -> int:
        """How often the data is read."""
        whole = (n for n, y in self.results if data_reductions(y.value))
        return max((*(a.number for a in self.accumulators), *whole), default=0)


def schedule(program: Program) -> Schedule:
    """Assign every statement of a program to a pass or to the time after one."""
    return _Scheduler(program).run()


class _Scheduler:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.level: dict[str, int] = {
            name: 0 for name, leaf in program.leaves.items() if not leaf.per_example
        }
        self.local: dict[str, tuple[tuple[Index, ...], Expr]] = {}
        self.accumulators: list[Accumulator] = []
        self.finished: list[tuple[int, Define]] = []
        self.interned: dict[tuple[tuple[Index, ...], Expr], str] = {}

    def run(self) -> Schedule:
        for definition in self.program.definitions:
            if not isinstance(definition, Space):
                self._define(definition)
        results = tuple((self._result(y)) for y in self.program.results)
        return Schedule(
            tuple(self.accumulators),
            tuple(self.finished),
            results,
            self.program.leaves,
            self.program.results,
        )

    def _define(self, definition: Define) -> None:
        value = substitute(definition.value, self.local)
        first = definition.targets[0]
        if any(x.space == "n" for t in definition.targets for x in t.indices):
            if isinstance(definition.value, Call) and not definition.value.indices:
                raise _per_example_function(definition)
            # Per-example values live inside a batch: they are put where they are read.
            self.local[first.name] = (first.indices, value)
            return
        if self._is_accumulator(value, first.indices):
            assert isinstance(value, Reduce)
            self._accumulate(first.name, first.indices, value)
            return
        hoisted = self._hoist(value)
        level = self._level(hoisted)
        self.finished.append((level, replace(definition, value=hoisted)))
        self.level |= {t.name: level for t in definition.targets}

    def _result(self, result: Yield) -> tuple[int, Yield]:
        value = substitute(result.value, self.local)
        if self._is_accumulator(value, result.target.indices):
            # Kept whole, so that structure inference can see the product inside.
            assert isinstance(value, Reduce)
            whole = replace(value, body=self._hoist(value.body))
            _refuse_pairs(whole)
            return self._level(whole) + 1, replace(result, value=whole)
        hoisted = self._hoist(value)
        return self._level(hoisted), replace(result, value=hoisted)

    def _is_accumulator(self, value: Expr, indices: tuple[Index, ...]) -> bool:
        reduces = isinstance(value, Reduce) and any(x.space == "n" for x in value.indices)
        return reduces and set(free_indices(value)) == set(indices)

    def _hoist(self, expr: Expr) -> Expr:
        """Give every outermost reduction over examples a name of its own."""
        match expr:
            case Reduce(indices=bound) if any(x.space == "n" for x in bound):
                indices = free_indices(expr)
                key = (indices, expr)
                if key not in self.interned:
                    name = f"mean_{len(self.interned) + 1}"
                    self._accumulate(name, indices, expr)
                    self.interned[key] = name
                return Ref(self.interned[key], indices, expr.span)
            case Number() | Ref() | Delta() | Size():
                return expr
            case Negate(operand=operand):
                return replace(expr, operand=self._hoist(operand))
            case Binary(left=left, right=right):
                return replace(expr, left=self._hoist(left), right=self._hoist(right))
            case Reduce(body=body):
                return replace(expr, body=self._hoist(body))
            case Apply(arguments=arguments) | Call(arguments=arguments):
                return replace(expr, arguments=tuple(map(self._hoist, arguments)))
            case _:
                assert_never(expr)

    def _accumulate(self, name: str, indices: tuple[Index, ...], value: Reduce) -> None:
        if data_reductions(value.body):
            # A mean inside a mean: the inner one is known first.
            value = replace(value, body=self._hoist(value.body))
        _refuse_pairs(value)
        number = self._level(value) + 1
        self.accumulators.append(Accumulator(name, indices, value, number))
        self.level[name] = number

    def _level(self, expr: Expr) -> int:
        return max((self.level.get(name, 0) for name in names(expr)), default=0)


def _refuse_pairs(value: Reduce) -> None:
    for node in walk(value):
        match node:
            case Ref(indices=indices) if any(x.space == "n" and x.primes for x in indices):
                raise SpecError(
                    Diagnostic(
                        "E0310",
                        f"`{node.name}` is read at a second example `n'`; "
                        "pairs of examples cannot be streamed in batches",
                        (Label(node.span, "pairs every example with every other"),),
                        ("reduce over each example's own index `n` first",),
                    )
                )
            case _:
                pass


def _per_example_function(definition: Define) -> SpecError:
    assert isinstance(definition.value, Call)
    function = definition.value.function
    return SpecError(
        Diagnostic(
            "E0311",
            f"`{function}` of a tensor that has the example index `n`",
            (Label(definition.span, "one decomposition per example is not compiled"),),
            (f"reduce over `n` first, for example `A[i,i'] = mean[n] …`, then `{function}(A)`",),
        )
    )
