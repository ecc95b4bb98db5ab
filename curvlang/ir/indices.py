"""Questions about the indices and names of an expression, and capture-avoiding renaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from math import prod
from typing import assert_never

from curvlang.ir import expr as ir
from curvlang.ir.functions import FUNCTIONS


def children(expr: ir.Expr) -> tuple[ir.Expr, ...]:
    """The direct subexpressions, left to right."""
    match expr:
        case ir.Number() | ir.Ref() | ir.Delta() | ir.Size():
            return ()
        case ir.Negate(operand=operand):
            return (operand,)
        case ir.Binary(left=left, right=right):
            return (left, right)
        case ir.Apply(arguments=arguments) | ir.Call(arguments=arguments):
            return arguments
        case ir.Reduce(body=body):
            return (body,)
        case _:
            assert_never(expr)


def with_children(expr: ir.Expr, change: Callable[[ir.Expr], ir.Expr]) -> ir.Expr:
    """The expression with its direct subexpressions changed, left to right; its own indices stay."""
    match expr:
        case ir.Number() | ir.Ref() | ir.Delta() | ir.Size():
            return expr
        case ir.Negate(operand=operand):
            return replace(expr, operand=change(operand))
        case ir.Binary(left=left, right=right):
            first = change(left)
            return replace(expr, left=first, right=change(right))
        case ir.Apply(arguments=arguments) | ir.Call(arguments=arguments):
            return replace(expr, arguments=tuple(map(change, arguments)))
        case ir.Reduce(body=body):
            return replace(expr, body=change(body))
        case _:
            assert_never(expr)


def walk(expr: ir.Expr) -> Iterator[ir.Expr]:
    """The expression and everything below it, parents first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def free_indices(expr: ir.Expr) -> tuple[ir.Index, ...]:
    """Indices that no reduction inside binds, in order of first appearance.

    >>> i, j = ir.Index("i"), ir.Index("i", 1)
    >>> free_indices(ir.Binary("*", ir.Ref("A", (i, j)), ir.Ref("b", (j,)))) == (i, j)
    True
    """
    return _free(expr, free_indices)


class FreeIndices:
    """`free_indices` of an expression and of everything below it, each part found once."""

    def __init__(self) -> None:
        # The expression stays with its answer, so that no other takes its identity.
        self._known: dict[int, tuple[ir.Expr, tuple[ir.Index, ...]]] = {}

    def __call__(self, expr: ir.Expr) -> tuple[ir.Index, ...]:
        """Free indices, in order of first appearance."""
        if id(expr) not in self._known:
            self._known[id(expr)] = (expr, _free(expr, self))
        return self._known[id(expr)][1]


def _free(expr: ir.Expr, below: Callable[[ir.Expr], tuple[ir.Index, ...]]) -> tuple[ir.Index, ...]:
    match expr:
        case ir.Ref(indices=indices):
            found: tuple[ir.Index, ...] = indices
        case ir.Delta(left=left, right=right):
            found = (left, right)
        case ir.Call(indices=indices):
            # Arguments are whole tensors (or constants): their indices are not free here.
            found = indices
        case ir.Reduce(indices=bound, body=body):
            found = tuple(x for x in below(body) if x not in bound)
        case ir.Number() | ir.Size():
            found = ()
        case ir.Negate() | ir.Binary() | ir.Apply():
            found = tuple(x for child in children(expr) for x in below(child))
        case _:
            assert_never(expr)
    return tuple(dict.fromkeys(found))


def names(expr: ir.Expr) -> frozenset[str]:
    """Every tensor or scalar name that the expression reads."""
    return frozenset(node.name for node in walk(expr) if isinstance(node, ir.Ref))


def spaces(expr: ir.Expr) -> frozenset[str]:
    """Letters of all spaces, bound or free."""
    found: set[str] = set()
    for node in walk(expr):
        match node:
            case ir.Ref(indices=indices) | ir.Reduce(indices=indices) | ir.Call(indices=indices):
                found.update(x.space for x in indices)
            case ir.Delta(left=left, right=right):
                found.update((left.space, right.space))
            case ir.Size(index=index):
                found.add(index.space)
            case _:
                pass
    return frozenset(found)


def fresh(space: str, taken: set[ir.Index] | frozenset[ir.Index]) -> ir.Index:
    """The index of a space with the fewest primes that is not taken."""
    primes = 0
    while ir.Index(space, primes) in taken:
        primes += 1
    return ir.Index(space, primes)


def all_indices(expr: ir.Expr) -> set[ir.Index]:
    """Every index, bound or free."""
    found: set[ir.Index] = set()
    for node in walk(expr):
        match node:
            case ir.Ref(indices=indices) | ir.Reduce(indices=indices) | ir.Call(indices=indices):
                found.update(indices)
            case ir.Delta(left=left, right=right):
                found.update((left, right))
            case ir.Size(index=index):
                found.add(index)
            case _:
                pass
    return found


def rename(expr: ir.Expr, mapping: Mapping[ir.Index, ir.Index]) -> ir.Expr:
    """Rename free indices; bound ones step aside where a new name would be captured."""
    if not mapping:
        return expr
    go = lambda x: rename(x, mapping)  # noqa: E731
    at = lambda x: mapping.get(x, x)  # noqa: E731
    match expr:
        case ir.Ref(indices=indices):
            return replace(expr, indices=tuple(map(at, indices)))
        case ir.Call(indices=indices):
            return replace(expr, indices=tuple(map(at, indices)))
        case ir.Delta(left=left, right=right):
            return replace(expr, left=at(left), right=at(right))
        case ir.Reduce(indices=bound, body=body):
            kept = {old: new for old, new in mapping.items() if old not in bound}
            taken = all_indices(body) | set(kept.values()) | set(kept)
            aside: dict[ir.Index, ir.Index] = {}
            for index in bound:
                if index in kept.values():
                    aside[index] = fresh(index.space, taken)
                    taken.add(aside[index])
            return replace(
                expr,
                indices=tuple(aside.get(x, x) for x in bound),
                body=rename(rename(body, aside), kept),
            )
        case ir.Number() | ir.Size() | ir.Negate() | ir.Binary() | ir.Apply():
            return with_children(expr, go)
        case _:
            assert_never(expr)


def substitute(
    expr: ir.Expr, values: Mapping[str, tuple[tuple[ir.Index, ...], ir.Expr]]
) -> ir.Expr:
    """Put definitions in place of names: `values[name] = (its indices, its right side)`."""
    go = lambda x: substitute(x, values)  # noqa: E731
    match expr:
        case ir.Ref(name=name, indices=indices) if name in values:
            formal, body = values[name]
            return rename(body, {f: x for f, x in zip(formal, indices, strict=True) if f != x})
        case _:
            # A value put here may have free indices that a reduction must not capture only
            # where it binds them on purpose, which index notation means it to.
            return with_children(expr, go)


def rename_spaces(expr: ir.Expr, mapping: Mapping[str, str]) -> ir.Expr:
    """Give index spaces other letters, bound indices included; primes stay."""
    at = lambda x: replace(x, space=mapping.get(x.space, x.space))  # noqa: E731
    made = with_children(expr, lambda x: rename_spaces(x, mapping))
    match made:
        case ir.Ref(indices=indices) | ir.Reduce(indices=indices) | ir.Call(indices=indices):
            return replace(made, indices=tuple(map(at, indices)))
        case ir.Delta(left=left, right=right):
            return replace(made, left=at(left), right=at(right))
        case ir.Size(index=index):
            return replace(made, index=at(index))
        case ir.Number() | ir.Negate() | ir.Binary() | ir.Apply():
            return made
        case _:
            assert_never(made)


def rename_names(expr: ir.Expr, mapping: Mapping[str, str]) -> ir.Expr:
    """Give tensors other names; indices stay."""
    if isinstance(expr, ir.Ref):
        return replace(expr, name=mapping.get(expr.name, expr.name))
    return with_children(expr, lambda x: rename_names(x, mapping))


def alike(expr: ir.Expr) -> tuple[tuple[ir.Index, ...], ir.Expr]:
    """The expression with its indices numbered by appearance: equal for all that mean the same.

    Returns:
        The free indices that were there, and the expression with all indices, free and bound,
        renamed.

    >>> i, j = ir.Index("i"), ir.Index("i", 1)
    >>> alike(ir.Ref("A", (j, i)))[1] == alike(ir.Ref("A", (i, j)))[1]
    True
    """
    free = free_indices(expr)
    numbers = count(_ALIKE)
    renamed = rename(expr, {x: ir.Index(x.space, next(numbers)) for x in free})
    return free, _bound_alike(renamed, numbers)


_ALIKE = 100_000
"""Primes of the first index that `alike` gives, above any that a person or a pass writes."""


def _bound_alike(expr: ir.Expr, numbers: Iterator[int]) -> ir.Expr:
    go = lambda x: _bound_alike(x, numbers)  # noqa: E731
    if not isinstance(expr, ir.Reduce):
        return with_children(expr, go)
    mapping = {x: ir.Index(x.space, next(numbers)) for x in expr.indices}
    return replace(expr, indices=tuple(mapping.values()), body=go(rename(expr.body, mapping)))


def is_function(value: ir.Expr) -> bool:
    """Whether a value is a tensor function that gives whole tensors."""
    return (
        isinstance(value, ir.Call) and not value.indices and bool(FUNCTIONS[value.function].results)
    )


def matrix_groups(
    call: ir.Call, known: Mapping[str, tuple[ir.Index, ...]]
) -> tuple[tuple[ir.Index, ...], tuple[ir.Index, ...]]:
    """Row and column indices of a function's argument, in the order it is read in."""
    tensor = call.arguments[0]
    assert isinstance(tensor, ir.Ref)
    order = tensor.indices or known[tensor.name]
    cut = tensor.cut or len(order) // 2
    return order[:cut], order[cut:]


def matrix_shape(
    call: ir.Call, known: Mapping[str, tuple[ir.Index, ...]], sizes: Mapping[str, int]
) -> tuple[int, int]:
    """Rows and columns of a function's argument."""
    rows, columns = matrix_groups(call, known)
    return prod(sizes[x.space] for x in rows), prod(sizes[x.space] for x in columns)
