"""Questions about the indices and names of an expression, and capture-avoiding renaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import assert_never

from curvlang.ir.expr import (
    Apply,
    Binary,
    Call,
    Delta,
    Expr,
    Index,
    Negate,
    Number,
    Reduce,
    Ref,
    Size,
)


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions, left to right."""
    match expr:
        case Number() | Ref() | Delta() | Size():
            return ()
        case Negate(operand=operand):
            return (operand,)
        case Binary(left=left, right=right):
            return (left, right)
        case Apply(arguments=arguments) | Call(arguments=arguments):
            return arguments
        case Reduce(body=body):
            return (body,)
        case _:
            assert_never(expr)


def with_children(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The expression with its direct subexpressions changed, left to right; its own indices stay."""
    match expr:
        case Number() | Ref() | Delta() | Size():
            return expr
        case Negate(operand=operand):
            return replace(expr, operand=change(operand))
        case Binary(left=left, right=right):
            first = change(left)
            return replace(expr, left=first, right=change(right))
        case Apply(arguments=arguments) | Call(arguments=arguments):
            return replace(expr, arguments=tuple(map(change, arguments)))
        case Reduce(body=body):
            return replace(expr, body=change(body))
        case _:
            assert_never(expr)


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything below it, parents first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def free_indices(expr: Expr) -> tuple[Index, ...]:
    """Indices that no reduction inside binds, in order of first appearance.

    >>> i, j = Index("i"), Index("i", 1)
    >>> free_indices(Binary("*", Ref("A", (i, j)), Ref("b", (j,)))) == (i, j)
    True
    """
    return _free(expr, free_indices)


class FreeIndices:
    """`free_indices` of an expression and of everything below it, each part found once."""

    def __init__(self) -> None:
        # The expression stays with its answer, so that no other takes its identity.
        self._known: dict[int, tuple[Expr, tuple[Index, ...]]] = {}

    def __call__(self, expr: Expr) -> tuple[Index, ...]:
        """Free indices, in order of first appearance."""
        if id(expr) not in self._known:
            self._known[id(expr)] = (expr, _free(expr, self))
        return self._known[id(expr)][1]


def _free(expr: Expr, below: Callable[[Expr], tuple[Index, ...]]) -> tuple[Index, ...]:
    match expr:
        case Ref(indices=indices):
            found: tuple[Index, ...] = indices
        case Delta(left=left, right=right):
            found = (left, right)
        case Call(indices=indices):
            # Arguments are whole tensors (or constants): their indices are not free here.
            found = indices
        case Reduce(indices=bound, body=body):
            found = tuple(x for x in below(body) if x not in bound)
        case Number() | Size():
            found = ()
        case Negate() | Binary() | Apply():
            found = tuple(x for child in children(expr) for x in below(child))
        case _:
            assert_never(expr)
    return tuple(dict.fromkeys(found))


def names(expr: Expr) -> frozenset[str]:
    """Every tensor or scalar name that the expression reads."""
    return frozenset(node.name for node in walk(expr) if isinstance(node, Ref))


def spaces(expr: Expr) -> frozenset[str]:
    """Letters of all spaces, bound or free."""
    found: set[str] = set()
    for node in walk(expr):
        match node:
            case Ref(indices=indices) | Reduce(indices=indices) | Call(indices=indices):
                found.update(x.space for x in indices)
            case Delta(left=left, right=right):
                found.update((left.space, right.space))
            case _:
                pass
    return frozenset(found)


def fresh(space: str, taken: set[Index] | frozenset[Index]) -> Index:
    """The index of a space with the fewest primes that is not taken."""
    primes = 0
    while Index(space, primes) in taken:
        primes += 1
    return Index(space, primes)


def all_indices(expr: Expr) -> set[Index]:
    """Every index, bound or free."""
    found: set[Index] = set()
    for node in walk(expr):
        match node:
            case Ref(indices=indices) | Reduce(indices=indices) | Call(indices=indices):
                found.update(indices)
            case Delta(left=left, right=right):
                found.update((left, right))
            case Size(index=index):
                found.add(index)
            case _:
                pass
    return found


def rename(expr: Expr, mapping: Mapping[Index, Index]) -> Expr:
    """Rename free indices; bound ones step aside where a new name would be captured."""
    if not mapping:
        return expr
    go = lambda x: rename(x, mapping)  # noqa: E731
    at = lambda x: mapping.get(x, x)  # noqa: E731
    match expr:
        case Ref(indices=indices):
            return replace(expr, indices=tuple(map(at, indices)))
        case Call(indices=indices):
            return replace(expr, indices=tuple(map(at, indices)))
        case Delta(left=left, right=right):
            return replace(expr, left=at(left), right=at(right))
        case Reduce(indices=bound, body=body):
            kept = {old: new for old, new in mapping.items() if old not in bound}
            taken = all_indices(body) | set(kept.values()) | set(kept)
            aside: dict[Index, Index] = {}
            for index in bound:
                if index in kept.values():
                    aside[index] = fresh(index.space, taken)
                    taken.add(aside[index])
            return replace(
                expr,
                indices=tuple(aside.get(x, x) for x in bound),
                body=rename(rename(body, aside), kept),
            )
        case Number() | Size() | Negate() | Binary() | Apply():
            return with_children(expr, go)
        case _:
            assert_never(expr)


def substitute(expr: Expr, values: Mapping[str, tuple[tuple[Index, ...], Expr]]) -> Expr:
    """Put definitions in place of names: `values[name] = (its indices, its right side)`."""
    go = lambda x: substitute(x, values)  # noqa: E731
    match expr:
        case Ref(name=name, indices=indices) if name in values:
            formal, body = values[name]
            return rename(body, {f: x for f, x in zip(formal, indices, strict=True) if f != x})
        case _:
            # A value put here may have free indices that a reduction must not capture only
            # where it binds them on purpose, which index notation means it to.
            return with_children(expr, go)


def rename_spaces(expr: Expr, mapping: Mapping[str, str]) -> Expr:
    """Give index spaces other letters, bound indices included; primes stay."""
    at = lambda x: replace(x, space=mapping.get(x.space, x.space))  # noqa: E731
    made = with_children(expr, lambda x: rename_spaces(x, mapping))
    match made:
        case Ref(indices=indices) | Reduce(indices=indices) | Call(indices=indices):
            return replace(made, indices=tuple(map(at, indices)))
        case Delta(left=left, right=right):
            return replace(made, left=at(left), right=at(right))
        case Size(index=index):
            return replace(made, index=at(index))
        case Number() | Negate() | Binary() | Apply():
            return made
        case _:
            assert_never(made)


def rename_names(expr: Expr, mapping: Mapping[str, str]) -> Expr:
    """Give tensors other names; indices stay."""
    if isinstance(expr, Ref):
        return replace(expr, name=mapping.get(expr.name, expr.name))
    return with_children(expr, lambda x: rename_names(x, mapping))


def alike(expr: Expr) -> tuple[tuple[Index, ...], Expr]:
    """The expression with its indices numbered by appearance: equal for all that mean the same.

    Returns:
        The free indices that were there, and the expression with all indices, free and bound,
        renamed.

    >>> i, j = Index("i"), Index("i", 1)
    >>> alike(Ref("A", (j, i)))[1] == alike(Ref("A", (i, j)))[1]
    True
    """
    free = free_indices(expr)
    numbers = count(_ALIKE)
    renamed = rename(expr, {x: Index(x.space, next(numbers)) for x in free})
    return free, _bound_alike(renamed, numbers)


_ALIKE = 100_000
"""Primes of the first index that `alike` gives, above any that a person or a pass writes."""


def _bound_alike(expr: Expr, numbers: Iterator[int]) -> Expr:
    go = lambda x: _bound_alike(x, numbers)  # noqa: E731
    if not isinstance(expr, Reduce):
        return with_children(expr, go)
    mapping = {x: Index(x.space, next(numbers)) for x in expr.indices}
    return replace(expr, indices=tuple(mapping.values()), body=go(rename(expr.body, mapping)))
