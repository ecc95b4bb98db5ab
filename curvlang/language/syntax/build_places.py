"""Lark's trees to indices in parts, splits of an index, and comparisons of indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lark import Token, Tree

from curvlang.diagnostics.source import Span
from curvlang.ir import expr as ir
from curvlang.ir import places
from curvlang.ir.indices import fresh

Linear = list[tuple[ir.Index | None, ir.Expr]]
"""The terms of a sum: an index with its coefficient, or a number."""
_SWAPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class PlaceBuilder:
    """What one body says of the places of its indices.

    Args:
        parameters: Names of its parameters: one letter of them is a number, not an index.
    """

    def __init__(self, parameters: frozenset[str] = frozenset()) -> None:
        self.parameters = parameters
        self.splits: dict[tuple[str, ...], str] = {}

    def split(
        self, tree: Tree[Token], expr: Callable[[Any], ir.Expr], span: Span
    ) -> tuple[ir.Space, ...]:
        """`split o = (h,d) with h = 8`: a space for each part; the one without a length has the rest."""
        letter, group, *given = tree.children
        assert isinstance(group, Tree)
        old, parts = str(letter), tuple(str(x) for x in group.children)
        known = {str(x.children[0]): expr(x.children[1]) for x in given if isinstance(x, Tree)}
        self.splits[parts] = old
        left: ir.Expr = ir.Size(index_of(letter), span)
        for part in parts:
            if part in known:
                size = ir.Size(ir.Index(part), span)
                left = ir.Binary(ir.BinaryOperator.DIVIDE, left, size, span)
        rest = [x for x in parts if x not in known]
        lengths = {**known, **dict.fromkeys(rest, left)}
        if len(rest) > 1 or set(known) - set(parts):
            old = places.UNDECLARED
        *others, last = (ir.Space(x, length, span) for x, length in lengths.items())
        return (*others, replace(last, parts=(old, *parts)))

    def indices(self, written: Sequence[Any]) -> tuple[tuple[ir.Index, ...], tuple[ir.Call, ...]]:
        """An index for each place, and the parts of those that are written in parts."""
        plain = [index_of(x) for x in written if isinstance(x, Token)]
        taken, found, groups = set(plain), [], []
        for place in written:
            if isinstance(place, Token):
                found.append(index_of(place))
                continue
            parts = tuple(map(index_of, place.children))
            index = fresh(self.old(parts), taken)
            taken.add(index)
            found.append(index)
            groups.append(ir.Call(places.SPLIT, (), (index, *parts)))
        return tuple(found), tuple(groups)

    def old(self, parts: Sequence[ir.Index]) -> str:
        """The letter of the index that has these parts."""
        return self.splits.get(tuple(x.space for x in parts), places.UNDECLARED)

    def joined(self, targets: Sequence[Any], value: ir.Expr) -> ir.Expr:
        """The right side of targets with indices in parts, over the indices."""
        written = [x.children[1] for x in targets]
        found = [g for x in written if x is not None for g in self.indices(x.children)[1]]
        groups = [replace(x, arguments=places.JOINED, span=value.span) for x in found]
        if not groups:
            return value
        bound = tuple(x for group in groups for x in group.indices[1:])
        return places.joined(bound, groups, value)

    def where(self, tree: Tree[Token], span: Span) -> ir.Expr:
        """`where(|i - i'| <= 2)`, or `where(o == (h,d))`."""
        left, written, right = (x for x in tree.children if x is not None)
        sign = str(written)
        if _is(right, "absolute") or _is(left, "group"):
            left, sign, right = right, _SWAPPED.get(sign, sign), left
        if _is(right, "group"):
            return self._equals_parts(left, sign, right, span)
        absolute = _is(left, "absolute")
        terms = self._terms(_inside(left))
        others = self._terms(right) if _is(right, "linear") else None
        if terms is None or others is None:
            return _unreadable(span)
        if absolute and (_numbers(terms) or len(_numbers(others)) < len(others)):
            return _unreadable(span)
        numbers = [*_numbers(others), *_negated(_numbers(terms))]
        return _comparison([*terms, *_negated(others)], numbers, sign, absolute, span)

    def _equals_parts(self, left: Any, sign: str, group: Any, span: Span) -> ir.Expr:
        parts = tuple(map(index_of, group.children))
        terms = None if _is(left, "group") else self._terms(left)
        match terms:
            case [(ir.Index() as index, ir.Number(value=1.0))] if sign == "==":
                return ir.Call(places.SPLIT, (), (index, *parts), span)
            case _:
                return _unreadable(span)

    def _terms(self, tree: Any) -> Linear | None:
        found: Linear = []
        sign = 1.0
        for child in tree.children:
            if isinstance(child, Tree):
                term = self._multiple(child, sign)
                if term is None:
                    return None
                found.append(term)
                sign = 1.0
            elif child is not None:
                sign = -1.0
        return found

    def _multiple(self, tree: Any, sign: float) -> tuple[ir.Index | None, ir.Expr] | None:
        index: ir.Index | None = None
        number: ir.Expr = ir.Number(sign)
        for child in tree.children:
            factor = self._factor(child)
            if isinstance(factor, ir.Index):
                if index is not None:
                    return None
                index = factor
            else:
                number = _product(number, factor)
        return index, number

    def _factor(self, child: Any) -> ir.Index | ir.Expr:
        if isinstance(child, Tree):
            name, index = child.children
            inside = index_of(index)
            return ir.Size(inside) if name == "size" else ir.Ref(str(name), (inside,))
        if child.type == "NUMBER":
            return ir.Number(float(child))
        if child.type == "INDEX" and str(child) not in self.parameters:
            return index_of(child)
        return ir.Ref(str(child))


def index_of(token: Any) -> ir.Index:
    """A letter with its primes."""
    text = str(token)
    return ir.Index(text.rstrip("'"), len(text) - len(text.rstrip("'")))


def in_parts(made: ir.Expr, groups: Sequence[ir.Call], span: Span) -> ir.Expr:
    """A tensor read at parts of its indices: `g[n,r,t,(h,d)]` is `sum[o] g[n,r,t,o] * where(o == (h,d))`."""
    if not groups or isinstance(made, ir.Size):
        return made
    for group in groups:
        placed = replace(group, span=span)
        made = ir.Binary(ir.BinaryOperator.MULTIPLY, made, placed, span)
    return ir.Reduce(ir.ReductionKind.SUM, tuple(x.indices[0] for x in groups), made, span)


def _is(tree: Any, kind: str) -> bool:
    return isinstance(tree, Tree) and tree.data == kind


def _inside(tree: Any) -> Any:
    """What stands between the bars of an absolute value."""
    return next(x for x in tree.children if isinstance(x, Tree)) if _is(tree, "absolute") else tree


def _unreadable(span: Span) -> ir.Call:
    return ir.Call(places.comparison("", absolute=False), (), (), span)


def _numbers(terms: Linear) -> Linear:
    return [(x, number) for x, number in terms if x is None]


def _negated(terms: Linear) -> Linear:
    return [(x, _product(ir.Number(-1.0), number)) for x, number in terms]


def _product(left: ir.Expr, right: ir.Expr) -> ir.Expr:
    match left, right:
        case ir.Number(value=x), ir.Number(value=y):
            return ir.Number(x * y)
        case ir.Number(value=1.0), other:
            return other
        case ir.Number(value=x), ir.Binary(
            operator=ir.BinaryOperator.MULTIPLY, left=ir.Number(value=y), right=rest
        ):
            return _product(ir.Number(x * y), rest)
        case _:
            return ir.Binary(ir.BinaryOperator.MULTIPLY, left, right)


def _sum(terms: Sequence[ir.Expr]) -> ir.Expr:
    numbers = sum(x.value for x in terms if isinstance(x, ir.Number))
    rest = [x for x in terms if not isinstance(x, ir.Number)]
    found: ir.Expr = rest[0] if rest else ir.Number(numbers)
    for term in rest[1:]:
        found = ir.Binary(ir.BinaryOperator.ADD, found, term)
    if rest and numbers:
        return ir.Binary(ir.BinaryOperator.ADD, found, ir.Number(numbers))
    return found


def _comparison(terms: Linear, numbers: Linear, sign: str, absolute: bool, span: Span) -> ir.Expr:
    """Σ coefficient · place on the left, a number on the right."""
    by_index: dict[ir.Index, list[ir.Expr]] = {}
    for index, number in terms:
        if index is not None:
            by_index.setdefault(index, []).append(number)
    if not by_index:
        return _unreadable(span)
    coefficients, bound = tuple(map(_sum, by_index.values())), _sum([x for _, x in numbers])
    indices = tuple(by_index)
    match indices, coefficients, bound:
        case (first, second), (ir.Number(value=x), ir.Number(value=y)), ir.Number(value=0.0) if (
            sign == "==" and first.space == second.space and x == -y and x
        ):
            return ir.Delta(first, second, span)
        case _:
            name = places.comparison(sign, absolute=absolute)
            return ir.Call(name, (*coefficients, bound), indices, span)
