"""Stacked: blocks of one structure and one size, held and multiplied as one.

The tensors of G blocks have an axis of length G in front. Every verb is that of the structure, taken
along this axis by `torch.vmap`: batched products and batched decompositions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.operators.block_diagonal import BlockDiagonal
from curvlang.operators.iterative.iteration import Iterative
from curvlang.operators.matrix_free import MatrixFree
from curvlang.operators.operator import Operator, check_whole, unchecked
from curvlang.operators.spectrum import Spectral, at_once
from curvlang.storage.repeated import again, repeats

_APART = (BlockDiagonal, Iterative, MatrixFree)
"""Direct sums, and what is known by its products: they do not stack."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stacked(Operator):
    """`⊕_g C_g` of G blocks with one structure, on vectors that hold one block after the other.

    Args:
        stack: The structure, with an axis of length G in front of all of its tensors. It is read by
            `Stacked` alone: its own verbs expect one block.
        groups: G.
        length: Rows of each block.
    """

    stack: Operator
    groups: int
    length: int
    structure: ClassVar[str] = "Stacked"

    def misfit(self) -> str:
        """An axis of length G in front of every tensor, and one block behind it."""
        held = held_tensors(self.stack)
        if self.groups < 1 or any(x.shape[:1] != (self.groups,) for x in held):
            return f"has tensors without an axis of {self.groups} blocks in front"
        unit = self.first_unit()
        check_whole(unit)
        return (
            "" if unit.size == self.length else f"has blocks of {unit.size} rows, not {self.length}"
        )

    @property
    def count(self) -> int:
        return self.groups

    @property
    def size(self) -> int:
        return self.groups * self.length

    def apply(self, v: Tensor) -> Tensor:
        """Every block on its own part of the vectors."""
        columns = v.reshape(self.groups, self.length, -1)
        found = self.of_each(lambda unit, x: unit.apply(x), columns)
        return found.reshape(v.shape)

    def root_product(self, noise: Tensor) -> Tensor:
        """Every block by its own root."""
        pairs = zip(self.units(), noise.split(self.length), strict=True)
        return torch.cat([unit.root_product(z) for unit, z in pairs])

    def diagonal(self) -> Tensor:
        return self.of_each(lambda unit: unit.diagonal()).reshape(-1)

    def trace(self) -> Tensor:
        return self.of_each(lambda unit: unit.trace()).sum()

    def frobenius(self) -> Tensor:
        return self.of_each(lambda unit: unit.frobenius()).norm()

    def eigenvalues(self) -> Tensor:
        return self.of_each(lambda unit: unit.eigenvalues()).reshape(-1)

    def spectral_form(self) -> Operator:
        return self.each(lambda unit: unit.spectral_form())

    def spectral(self, function: Spectral) -> Operator:
        """The function of all eigenvalues in one call, wherever that is not refused."""
        together = _together(function)
        return self.each(lambda unit: unit.spectral(lambda s: at_once(together, s)))

    def of_each(self, function: Callable[..., Tensor], *columns: Tensor) -> Tensor:
        """A tensor made of every block, and of its entry of further tensors: [G, …]."""
        return mapped(function, (self.stack,), self.groups, columns)

    def each(self, function: Callable[..., Operator], *others: Operator) -> Operator:
        """The function of every block, and of those of other stacks: a stack again."""
        stacks = [self.stack, *(x.stack for x in others if isinstance(x, Stacked))]
        assert len(stacks) == 1 + len(others), "stacks meet stacks"
        return stacked_from(function, stacks, self.groups)

    def units(self) -> tuple[Operator, ...]:
        """Every block by itself: views, no copies."""
        held = {id(x): x.unbind(0) for x in held_tensors(self.stack)}
        return tuple(
            _filled(self.stack, {key: parts[k] for key, parts in held.items()})
            for k in range(self.groups)
        )

    def first_unit(self) -> Operator:
        return _filled(self.stack, {id(x): x[0] for x in held_tensors(self.stack)})

    def describe(self) -> str:
        """The first block stands for all of them: they have one structure."""
        return f"{self.groups} × ({self.first_unit().describe()})"


def stacked(units: Sequence[Operator]) -> Operator | None:
    """Blocks of one structure as one; None where their structures differ or do not stack."""
    first = units[0]
    if len(units) < 2 or any(isinstance(x, _APART) for x in structures_in(first)):
        return None
    if any(form(unit) != form(first) for unit in units[1:]):
        return None
    columns = zip(*(held_tensors(unit) for unit in units), strict=True)
    tensors = [_stacked(column) for column in columns]
    keys = [id(x) for x in held_tensors(first)]
    whole = _filled(first, dict(zip(keys, tensors, strict=True)))
    return Stacked(whole, len(units), first.size)


def _stacked(column: Sequence[Tensor]) -> Tensor:
    """Tensors with an axis in front; one where they are the same memory, as the units of such a stack are."""
    first = column[0]
    place = first.data_ptr(), first.stride()
    alike = first.numel() and all((x.data_ptr(), x.stride()) == place for x in column)
    return again(first[None], len(column)) if alike else torch.stack(list(column))


def stacked_from(function: Callable[..., Operator], given: Sequence[Any], groups: int) -> Operator:
    """What a function makes of every slice of the given stacks, as one operator.

    Args:
        function: Given operators and mappings of tensors, one slice of each.
        given: Operators and mappings with an axis of length G in front of every tensor.
        groups: G.
    """
    made: list[tuple[Operator, int]] = []

    def one(held: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = function(*_slices(given, held))
        made.append((found, found.size))
        return tuple(held_tensors(found))

    tensors = along(one, _all_tensors(given), groups)
    ((whole, length),) = made
    keys = [id(x) for x in held_tensors(whole)]
    return Stacked(_filled(whole, dict(zip(keys, tensors, strict=True))), groups, length)


def mapped(
    function: Callable[..., Tensor],
    given: Sequence[Any],
    groups: int,
    columns: Sequence[Tensor] = (),
) -> Tensor:
    """A tensor made of every slice of the given stacks and of further tensors, [G, …]."""
    held = _all_tensors(given)

    def one(parts: Sequence[Tensor]) -> Tensor:
        return function(*_slices(given, parts[: len(held)]), *parts[len(held) :])

    found: Tensor = along(one, [*held, *columns], groups)
    return found


def along(
    function: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor], count: int
) -> Any:
    """What a function makes of one entry along the first axis of all tensors, for all entries at once.

    A tensor that is one along it is given without that axis: what is made of such alone is made once, and is
    one along its first axis itself.

    Args:
        function: Given a list of tensors, gives one or several.
        tensors: With an axis of a length in front.
        count: This length.
    """
    axes = [None if repeats(x) else 0 for x in tensors]
    given = [x if axis == 0 else x[0] for x, axis in zip(tensors, axes, strict=True)]
    # Where no tensor has the axis, this one still says how long it is.
    places = torch.empty(count)
    return torch.vmap(lambda parts, _: function(parts), in_dims=(axes, 0))(given, places)


def held_tensors(operator: Operator) -> list[Tensor]:
    """The tensors of a structure in the order of its fields, each once."""
    found: dict[int, Tensor] = {}
    for field in fields(operator):
        value = getattr(operator, field.name)
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, Tensor):
                found[id(x)] = x
            elif isinstance(x, Operator):
                found |= {id(t): t for t in held_tensors(x)}
    return list(found.values())


def form(operator: Operator) -> object:
    """What two operators have in common whose tensors can be stacked."""
    seen: dict[int, int] = {}

    def of(value: object) -> object:
        if isinstance(value, Tensor):
            place = seen.setdefault(id(value), len(seen))
            return place, value.shape, value.dtype, value.device
        if isinstance(value, tuple):
            return tuple(map(of, value))
        if isinstance(value, Operator):
            own = tuple(of(getattr(value, field.name)) for field in fields(value))
            return type(value), own
        return value

    return of(operator)


def structures_in(operator: Operator) -> Iterator[Operator]:
    """An operator and all that it is made of."""
    yield operator
    for field in fields(operator):
        value = getattr(operator, field.name)
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, Operator):
                yield from structures_in(x)


def _filled(operator: Operator, tensors: Mapping[int, Tensor]) -> Operator:
    """The structure with other tensors in place of its own; what was shared stays shared."""

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return tensors[id(value)]
        if isinstance(value, tuple):
            return tuple(map(of, value))
        return _filled(value, tensors) if isinstance(value, Operator) else value

    return unchecked(
        type(operator), {x.name: of(getattr(operator, x.name)) for x in fields(operator)}
    )


def _all_tensors(given: Sequence[Any]) -> list[Tensor]:
    """The tensors of operators and mappings, each once."""
    found: dict[int, Tensor] = {}
    for x in given:
        own = held_tensors(x) if isinstance(x, Operator) else x.values()
        found |= {id(t): t for t in own}
    return list(found.values())


def _slices(given: Sequence[Any], held: Sequence[Tensor]) -> Iterator[Any]:
    """Operators and mappings with slices in place of their tensors."""
    tensors = dict(zip(map(id, _all_tensors(given)), held, strict=True))
    for x in given:
        if isinstance(x, Operator):
            yield _filled(x, tensors)
        else:
            yield {name: tensors[id(t)] for name, t in x.items()}


def _together(function: Spectral) -> Spectral:
    """A function of the eigenvalues of all blocks, [G, …], with every block judged by its own.

    Whether an eigenvalue is a pole to rounding is a matter of the block that it is in: where the
    largest of all blocks stand in the way, the function is taken block by block.
    """

    def at(s: Tensor) -> Tensor:
        try:
            return function(s)
        except SpecError:
            return torch.stack([function(x) for x in s])

    return at
