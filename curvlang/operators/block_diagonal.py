"""Direct sums: blocks on entries of the parameter vector that no two of them share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.matrix_free import BlockOfJoint, JointProduct, MatrixFree
from curvlang.operators.operator import Operator
from curvlang.operators.places import Places, uncovered
from curvlang.operators.spectrum import Spectral


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BlockDiagonal(Operator):
    """`⊕_k C_k`: block k acts on the entries `index[k]` of the parameter vector.

    Args:
        names: Of all blocks.
        parts: The blocks in their order; blocks of one structure may be one part (`Stacked`).
        places: For every part the entries that it acts on; an index is kept as ranges where it is some.
    """

    names: tuple[str, ...]
    parts: tuple[Operator, ...]
    places: tuple[Places, ...]
    structure: ClassVar[str] = "BlockDiagonal"

    def __post_init__(self) -> None:
        """Keep an index as ranges where it is some."""
        given: object = self.places
        if isinstance(given, tuple | list):
            kept = tuple(Places.of(x) if isinstance(x, Tensor) else x for x in given)
            object.__setattr__(self, "places", kept)
        Operator.__post_init__(self)

    def misfit(self) -> str:
        """A place in the vector for every entry of every block, each of them once."""
        sizes, count = [part.size for part in self.parts], sum(part.count for part in self.parts)
        shapes = [[own.size] if own.single is None else [*own.single.shape] for own in self.places]
        if count != len(self.names):
            return f"has {len(self.names)} names for {count} blocks"
        if shapes != [[size] for size in sizes] or not sizes:
            return f"has blocks of sizes {sizes} at places of shapes {shapes}"
        return uncovered(self.places, sum(sizes))

    @property
    def blocks(self) -> tuple[Operator, ...]:
        """Every block by itself."""
        return tuple(unit for part in self.parts for unit in part.units())

    @property
    def index(self) -> tuple[Tensor, ...]:
        """The entries that each block acts on."""
        return tuple(own.to(self.device).index for own in self.block_places())

    def block_places(self) -> Iterator[Places]:
        """The same, as ranges where they are some."""
        for part, own in zip(self.parts, self.places, strict=True):
            yield from own.parts(part.count)

    def held(self) -> Iterator[Tensor | Operator]:
        yield from self.parts
        yield from (own.single for own in self.places if own.single is not None)

    def named_parts(self) -> Iterator[tuple[tuple[str, ...], Operator, Places]]:
        """Every part with the names of its blocks and the entries that it acts on."""
        start = 0
        for part, own in zip(self.parts, self.places, strict=True):
            yield self.names[start : start + part.count], part, own
            start += part.count

    def with_parts(self, parts: Iterable[Operator]) -> BlockDiagonal:
        """Other parts in their places."""
        return BlockDiagonal(self.names, tuple(parts), self.places)

    def unstacked(self) -> BlockDiagonal:
        """The same with one part for each block."""
        return BlockDiagonal(self.names, self.blocks, tuple(self.block_places()))

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def apply(self, v: Tensor) -> Tensor:
        out = torch.empty_like(v)
        joint: dict[JointProduct, list[tuple[float, BlockOfJoint, Places]]] = {}
        for part, places in zip(self.parts, self.places, strict=True):
            together, alone = _joint_terms(part)
            own = places.take(v)
            if together:
                places.put(out, sum((f * _of(x, own) for f, x in alone), 0 * own))
            else:
                places.put(out, part.apply(own))
            for factor, block in together:
                joint.setdefault(block.joint, []).append((factor, block, places))
        for source, taken in joint.items():
            whole = v.new_zeros(source.length, v.shape[1], dtype=source.dtype)
            for _, block, places in taken:
                whole[block.places] = places.take(v).to(source.dtype)
            found = source.product(whole).to(v.dtype)
            for factor, block, places in taken:
                places.put(out, places.take(out) + factor * found[block.places])
        return out

    def root_product(self, noise: Tensor) -> Tensor:
        """Every block by its own root."""
        out = torch.empty_like(noise)
        for part, places in zip(self.parts, self.places, strict=True):
            places.put(out, part.root_product(places.take(noise)))
        return out

    @property
    def products(self) -> int:
        """Passes over the data that a product takes: one for all blocks that are multiplied together."""
        joint = {block.joint for part in self.parts for _, block in _joint_terms(part)[0]}
        own = (x.count for x in self.parts if not x.spectrum_known and not _joint_terms(x)[0])
        return len(joint) + sum(own)

    def same_blocks(self, other: BlockDiagonal) -> bool:
        """Whether both cut the parameters into the same blocks, in the same order."""
        if self.same_parts(other):
            return True
        return len(self.names) == len(other.names) and all(
            x.same(y) for x, y in zip(self.block_places(), other.block_places(), strict=True)
        )

    def same_parts(self, other: BlockDiagonal) -> bool:
        """Whether the same blocks are held as one in both."""
        return [p.count for p in self.parts] == [p.count for p in other.parts] and all(
            x.same(y) for x, y in zip(self.places, other.places, strict=True)
        )

    def _scatter(self, parts: Sequence[Tensor]) -> Tensor:
        out = torch.empty(self.size, dtype=self.dtype, device=self.device)
        for part, places in zip(parts, self.places, strict=True):
            places.put(out, part)
        return out

    def diagonal(self) -> Tensor:
        return self._scatter([part.diagonal() for part in self.parts])

    def trace(self) -> Tensor:
        return torch.stack([part.trace() for part in self.parts]).sum()

    def frobenius(self) -> Tensor:
        return torch.stack([part.frobenius() for part in self.parts]).norm()

    def eigenvalues(self) -> Tensor:
        return torch.cat([part.eigenvalues() for part in self.parts])

    def spectral_form(self) -> Operator:
        return self.with_parts(part.spectral_form() for part in self.parts)

    def spectral(self, function: Spectral) -> Operator:
        return self.with_parts(part.spectral(function) for part in self.parts)

    def describe(self) -> str:
        return " ⊕ ".join(
            f"{_shown(names)}: {part.describe()}" for names, part, _ in self.named_parts()
        )


def _joint_terms(
    part: Operator,
) -> tuple[list[tuple[float, BlockOfJoint]], list[tuple[float, Operator]]]:
    """The terms of a part that are multiplied together with other blocks, and the rest."""
    together: list[tuple[float, BlockOfJoint]] = []
    alone: list[tuple[float, Operator]] = []
    for factor, x in part.linear_terms():
        if isinstance(x, MatrixFree) and x.block is not None:
            together.append((factor, x.block))
        else:
            alone.append((factor, x))
    return together, alone


def _of(operator: Operator, v: Tensor) -> Tensor:
    """`C v` in the operator's precision, returned in the vector's."""
    return operator.apply(v.to(operator.dtype)).to(v.dtype)


def described(operator: Operator) -> Iterator[tuple[str, str]]:
    """The structure of every block by its name; one called `model` where there are no blocks."""
    if not isinstance(operator, BlockDiagonal):
        yield "model", operator.describe()
        return
    for names, part, _ in operator.named_parts():
        text = part.first_unit().describe()
        yield from ((name, text) for name in names)


def _shown(names: tuple[str, ...]) -> str:
    """The name of a block, or the first and the last of several."""
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def aligned(terms: Sequence[BlockDiagonal]) -> Sequence[BlockDiagonal]:
    """Operators with the same blocks, with the same ones of them held as one."""
    if all(t.same_parts(terms[0]) for t in terms):
        return terms
    return [t.unstacked() for t in terms]
