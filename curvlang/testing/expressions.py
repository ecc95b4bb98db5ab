"""Random tensor expressions: exactly the free indices asked for, and a value defined everywhere.

What an expression could divide by, take a root or a logarithm of, is kept away from zero by how
it is written, never by throwing programs away. Simplest choices stand first, so that Hypothesis
shrinks towards one factor without reductions, and towards index `i` without primes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeVar

from curvlang.ir import expr as ir
from curvlang.ir.indices import fresh, rename
from curvlang.ir.places import SPLIT, comparison
from curvlang.testing.hypothesis_package import strategies as st

N = ir.Index("n")
SMALL = (0.5, 2.0, 1.5, 0.1, 3.0, 0.25)
"""Numbers of a formula; 0.1 has no exact binary form, so that lost precision shows."""
Item = TypeVar("Item")


@dataclass(slots=True)
class Scope:
    """What an expression may read.

    Args:
        tensors: Name of each tensor to the letters of its spaces.
        scalars: Names of numbers.
        whole: Tensors without the example index that `trace` and `norm` may take.
        splits: Letters of an index that this body splits, and of its parts.
    """

    tensors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scalars: list[str] = field(default_factory=list)
    splits: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def whole(self) -> list[str]:
        return [name for name, spaces in self.tensors.items() if "n" not in spaces]

    @property
    def spaces(self) -> list[str]:
        """Letters of all spaces of the tensors, in order of appearance."""
        return list(dict.fromkeys(x for spaces in self.tensors.values() for x in spaces))


def times(*factors: ir.Expr) -> ir.Expr:
    """The product, left to right."""
    return reduce(lambda x, y: ir.Binary(ir.BinaryOperator.MULTIPLY, x, y), factors)


def plus(left: ir.Expr, right: ir.Expr) -> ir.Expr:
    """The sum."""
    return ir.Binary(ir.BinaryOperator.ADD, left, right)


def raised(base: ir.Expr, exponent: float) -> ir.Expr:
    """The power, with a sign written in front of a negative exponent."""
    number: ir.Expr = ir.Number(abs(exponent))
    return ir.Binary(ir.BinaryOperator.POWER, base, number if exponent >= 0 else ir.Negate(number))


@dataclass(slots=True)
class Expressions:
    """Draws expressions over a scope."""

    draw: st.DrawFn
    scope: Scope

    def one_of(self, choices: Sequence[Item]) -> Item:
        """One of the choices; shrinks to the first."""
        return self.draw(st.sampled_from(list(choices)))

    def flip(self) -> bool:
        """Shrinks to no."""
        return self.draw(st.booleans())

    def subset(self, items: Sequence[Item]) -> list[Item]:
        """Some of the items, in their order; shrinks to none."""
        return [x for x in items if self.flip()]

    def expression(self, free: Iterable[ir.Index], depth: int) -> ir.Expr:
        """An expression whose free indices are exactly `free`; shrinks to a contraction."""
        wanted = tuple(dict.fromkeys(free))
        if depth <= 0:
            return self.contraction(wanted)
        rule = self.one_of(
            [
                self._contraction,
                self._scaled,
                self._product,
                self._sum,
                self._nested,
                self._power,
                self._ratio,
                self._root,
                self._function,
                self._negated,
            ]
        )
        return rule(wanted, depth - 1)

    def _contraction(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        return self.contraction(free)

    def _scaled(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        inner = self.expression(free, depth)
        number = self.number(depth)
        if isinstance(number, ir.Number) and self.flip():
            return ir.Binary(ir.BinaryOperator.DIVIDE, inner, number)
        return times(number, inner)

    def number(self, depth: int) -> ir.Expr:
        """An expression without free indices."""
        kinds = ["number", "size"]
        kinds += ["scalar"] if self.scope.scalars else []
        kinds += ["norm"] if self.scope.whole else []
        kinds += ["reduced"] if depth > 0 else []
        match self.one_of(kinds):
            case "number":
                return ir.Number(self.one_of(SMALL))
            case "size":
                return ir.Size(
                    ir.Index(self.one_of([x for x in self.scope.spaces if x in "ntrio"]))
                )
            case "scalar":
                return ir.Ref(self.one_of(self.scope.scalars))
            case "norm":
                name = self.one_of(self.scope.whole)
                spaces = self.scope.tensors[name]
                square = len(spaces) == 2 and len(set(spaces)) == 1
                return ir.Call(
                    self.one_of(["norm", "trace"] if square else ["norm"]), (ir.Ref(name),)
                )
            case _:
                return self.expression((), depth - 1)

    def _product(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        left, right = self.shared(free)
        return times(self.expression(left, depth), self.expression(right, depth))

    def shared(self, free: tuple[ir.Index, ...]) -> tuple[list[ir.Index], list[ir.Index]]:
        """Indices dealt to two sides, some to both."""
        where = [self.one_of(["left", "both", "right"]) for _ in free]
        left = [x for x, w in zip(free, where, strict=True) if w != "right"]
        right = [x for x, w in zip(free, where, strict=True) if w != "left"]
        return left, right

    def _sum(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        whole, part = self.expression(free, depth), self.expression(self.subset(free), depth)
        first, second = (part, whole) if self.flip() else (whole, part)
        return ir.Binary(
            self.one_of([ir.BinaryOperator.ADD, ir.BinaryOperator.SUBTRACT]), first, second
        )

    def _nested(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        """A reduction over whatever stands below it."""
        letters = [x for x in self.scope.spaces if x != "n" or N not in free]
        if not letters:
            return self.contraction(free)
        letter = self.one_of(letters)
        index = N if letter == "n" else fresh(letter, set(free))
        body = self.expression((*free, index), depth)
        return ir.Reduce(self.one_of(list(ir.ReductionKind)), (index,), body)

    def _power(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        return raised(self.expression(free, depth), self.one_of([2.0, 3.0, 1.0]))

    def _ratio(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        above, below = self.shared(free)
        return ir.Binary(
            ir.BinaryOperator.DIVIDE, self.expression(above, depth), self.positive(below, depth)
        )

    def _root(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        base = self.positive(free, depth)
        kind = self.one_of(["half", "sqrt", "log", "inverse", "inverse root", "three halves"])
        exponents = {"half": 0.5, "inverse": -1.0, "inverse root": -0.5, "three halves": 1.5}
        return raised(base, exponents[kind]) if kind in exponents else ir.Apply(kind, (base,))

    def _function(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        inner = self.expression(free, depth)
        match self.one_of(["abs", "exp", "max", "min"]):
            case "abs":
                return ir.Apply("abs", (inner,))
            case "exp":
                return ir.Apply("exp", (ir.Negate(ir.Apply("abs", (inner,))),))
            case function:
                other = self.expression(self.subset(free), depth - 1)
                bound = self.one_of([ir.Number(self.one_of(SMALL)), other])
                return ir.Apply(function, (inner, bound))

    def _negated(self, free: tuple[ir.Index, ...], depth: int) -> ir.Expr:
        return ir.Negate(self.expression(free, depth))

    def positive(self, free: Iterable[ir.Index], depth: int) -> ir.Expr:
        """At least a tenth, everywhere."""
        wanted = tuple(free)
        inner = self.expression(wanted, depth)
        size = raised(inner, 2.0) if self.flip() else ir.Apply("abs", (inner,))
        return plus(size, ir.Number(self.one_of([1.0, 0.5, 0.1])))

    def contraction(self, free: tuple[ir.Index, ...]) -> ir.Expr:
        """Reductions in any nesting and order over a product of tensors."""
        if not free and not self.scope.tensors:
            return ir.Number(self.one_of(SMALL))
        bound: list[ir.Index] = []
        factors: list[ir.Expr] = []
        missing = list(free)
        count = self.draw(st.integers(1, 3)) if self.scope.tensors else 0
        while missing or len(factors) < count:
            factor, used = self._factor(free, bound, missing)
            factors.append(factor)
            missing = [x for x in missing if x not in used]
        return self.reduced(bound, times(*factors))

    def _factor(
        self, free: tuple[ir.Index, ...], bound: list[ir.Index], missing: list[ir.Index]
    ) -> tuple[ir.Expr, tuple[ir.Index, ...]]:
        """A tensor over free and bound indices, one that is missing among them where one is."""
        tensors = self.scope.tensors
        fitting = [t for t in tensors if not missing or missing[0].space in tensors[t]]
        others = [] if missing and missing[0] == N else ["delta", "sign", "normal", "mask"]
        splits = [x for x in self.scope.splits if missing and missing[0].space in x]
        others += ["split", "split"] if splits else []
        kind = self.one_of(["tensor"] * (5 if fitting else 0) + (others if missing else []))
        if kind == "tensor":
            name = self.one_of(fitting)
            indices = self._slots(tensors[name], free, bound, missing)
            return ir.Ref(name, indices), indices
        first = missing[0]
        if kind == "split":
            indices = self._slots(self.one_of(splits), free, bound, missing)
            return ir.Call(SPLIT, (), indices), indices
        if kind == "mask":
            return self.mask(first, [x for x in (*free, *bound) if x != N])
        if kind == "delta":
            partners = [x for x in (*free, *bound) if x.space == first.space]
            other = self.one_of(partners)
            return ir.Delta(first, other), (first, other)
        made = ir.Call(
            f"random_{kind}", (ir.Number(float(self.draw(st.integers(0, 3)))),), (first,)
        )
        return made, (first,)

    def mask(
        self, first: ir.Index, partners: Sequence[ir.Index]
    ) -> tuple[ir.Expr, tuple[ir.Index, ...]]:
        """The place of an index compared with a number, or with the place of another."""
        other = self.one_of(partners)
        own = (first,) if other == first else (first, other)
        numbers = (1.0, self.one_of([-1.0, 1.0, 2.0]))[: len(own)]
        bound = float(self.draw(st.integers(-1, 3)))
        name = comparison(self.one_of(["<=", "<", ">", ">=", "==", "!="]), absolute=self.flip())
        return ir.Call(name, tuple(map(ir.Number, (*numbers, bound))), own), own

    def _slots(
        self,
        spaces: tuple[str, ...],
        free: tuple[ir.Index, ...],
        bound: list[ir.Index],
        missing: list[ir.Index],
    ) -> tuple[ir.Index, ...]:
        """An index for every axis: a missing one first, else one in use, else a new bound one."""
        chosen: list[ir.Index] = []
        for space in spaces:
            mine = [x for x in missing if x.space == space and x not in chosen]
            known = [x for x in (*free, *bound) if x.space == space]
            if mine:
                chosen.append(mine[0])
            elif known and (space == "n" or self.flip()):
                chosen.append(self.one_of(known))
            else:
                index = N if space == "n" else fresh(space, {*free, *bound})
                if index not in bound:
                    bound.append(index)
                chosen.append(index)
        return tuple(chosen)

    def reduced(self, bound: Sequence[ir.Index], body: ir.Expr) -> ir.Expr:
        """Sums and means over the indices, grouped and nested at random."""
        rest = self.draw(st.permutations(list(bound))) if len(bound) > 1 else list(bound)
        while rest:
            size = self.draw(st.integers(1, len(rest)))
            group, rest = tuple(rest[:size]), rest[size:]
            body = ir.Reduce(self.one_of(list(ir.ReductionKind)), group, body)
        return body

    def gram(self, index: ir.Index, depth: int) -> ir.Expr:
        """A reduction of outer products of one factor with itself: positive semidefinite."""
        letters = [x for x in self.scope.spaces if x != index.space]
        shared = [ir.Index(x) for x in self.subset(letters)] or [ir.Index(letters[0])]
        half = self.expression((index, *shared), depth)
        other = rename(half, {index: ir.Index(index.space, index.primes + 1)})
        return self.reduced(shared, times(half, other))


__all__ = ["Expressions", "Scope", "plus", "raised", "times"]
