"""Sums, multiples and direct sums: structures made of structures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.basic import Dense, Diagonal, Identity
from curvlang.operators.kronecker import EigenBasis, Kronecker
from curvlang.operators.operator import Operator, Spectral, check_dense
from curvlang.operators.vmapped import equal


@dataclass(frozen=True, slots=True, eq=False)
class Scaled(Operator):
    """`c · C`."""

    factor: float
    operator: Operator
    structure: ClassVar[str] = "Scaled"

    @property
    def size(self) -> int:
        return self.operator.size

    @property
    def dtype(self) -> torch.dtype:
        return self.operator.dtype

    @property
    def device(self) -> torch.device:
        return self.operator.device

    @property
    def spectrum_known(self) -> bool:
        return self.operator.spectrum_known

    def apply(self, v: Tensor) -> Tensor:
        return self.factor * self.operator.apply(v)

    def diagonal(self) -> Tensor:
        return self.factor * self.operator.diagonal()

    def trace(self) -> Tensor:
        return self.factor * self.operator.trace()

    def frobenius(self) -> Tensor:
        return abs(self.factor) * self.operator.frobenius()

    def eigenvalues(self) -> Tensor:
        return self.factor * self.operator.eigenvalues()

    def spectral_form(self) -> Operator:
        """The multiple moves into the eigenvalues."""
        return self.operator.spectral_form().spectral(lambda s: self.factor * s)

    def spectral(self, function: Spectral) -> Operator:
        """f(c C) = (s ↦ f(c s))(C)."""
        return self.operator.spectral(lambda s: function(self.factor * s))

    def tensors(self) -> Iterator[Tensor]:
        yield from self.operator.tensors()

    def describe(self) -> str:
        return f"{self.factor:.3g} · ({self.operator.describe()})"


@dataclass(frozen=True, slots=True, eq=False)
class Sum(Operator):
    """`C_1 + C_2 + …`."""

    terms: tuple[Operator, ...]
    structure: ClassVar[str] = "Sum"

    @property
    def size(self) -> int:
        return self.terms[0].size

    @property
    def dtype(self) -> torch.dtype:
        return self.terms[0].dtype

    @property
    def device(self) -> torch.device:
        return self.terms[0].device

    @property
    def spectrum_known(self) -> bool:
        return all(term.spectrum_known for term in self.terms)

    def apply(self, v: Tensor) -> Tensor:
        # Products run in the model's precision, statistics in float64: each term in its own.
        parts = [term.apply(v.to(term.dtype)).to(v.dtype) for term in self.terms]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def diagonal(self) -> Tensor:
        return torch.stack([term.diagonal() for term in self.terms]).sum(0)

    def trace(self) -> Tensor:
        return torch.stack([term.trace() for term in self.terms]).sum()

    def eigenvalues(self) -> Tensor:
        return self.spectral_form().eigenvalues()

    def spectral_form(self) -> Operator:
        """The sum, decomposed by the best rule that applies.

        A shift of one structure's spectrum where all others are multiples of I; elementwise where
        all are diagonal; in the common basis, or around the common Kronecker factor, where they
        share one; block by block; otherwise the entries are formed, up to the size limit.
        """
        terms = tuple(t for term in self.terms for t in _carried(term))
        shifts = [t for t in terms if isinstance(t, Identity)]
        others = [t for t in terms if not isinstance(t, Identity)]
        shift = sum(
            (t.scale for t in shifts), torch.zeros((), dtype=self.dtype, device=self.device)
        )
        if not others:
            return Identity(shift, self.size)
        if len(others) == 1:
            return others[0].spectral_form().spectral(lambda s: s + shift)
        if all(isinstance(t, Diagonal) for t in others):
            return Diagonal(self.diagonal())
        product = _shared_factor(others)
        if product is not None:
            return product.spectral_form().spectral(lambda s: s + shift)
        shared = _shared_basis(others)
        if shared is not None:
            return EigenBasis(shared.left, shared.right, shared.spectrum + shift)
        if all(isinstance(t, BlockDiagonal) for t in others):
            return _block_sum([t for t in others if isinstance(t, BlockDiagonal)], shift)
        check_dense(self.size)
        return Dense(self.dense()).spectral_form()

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form().spectral(function)

    def tensors(self) -> Iterator[Tensor]:
        for term in self.terms:
            yield from term.tensors()

    def describe(self) -> str:
        return " + ".join(term.describe() for term in self.terms)


def _carried(operator: Operator, factor: float = 1.0) -> Iterator[Operator]:
    """The terms of c · C, with c moved into every structure that can carry it."""
    match operator:
        case Scaled(factor=own, operator=inner):
            yield from _carried(inner, factor * own)
        case Sum(terms=terms):
            for term in terms:
                yield from _carried(term, factor)
        case Identity(scale=scale, length=length):
            yield Identity(factor * scale, length)
        case Diagonal(entries=entries):
            yield Diagonal(factor * entries)
        case Kronecker(left=left, right=right):
            yield Kronecker(factor * left, right)
        case EigenBasis(left=left, right=right, spectrum=spectrum):
            yield EigenBasis(left, right, factor * spectrum)
        case BlockDiagonal(parts=parts):
            multiple = lambda unit: Scaled(factor, unit)  # noqa: E731
            yield operator.with_parts(part.each(multiple) for part in parts)
        case _:
            yield operator if factor == 1.0 else Scaled(factor, operator)


def _shared_factor(terms: Sequence[Operator]) -> Kronecker | None:
    """G⊗A + H⊗A = (G+H)⊗A, and the same on the other side; None where no factor is shared."""
    products = [t for t in terms if isinstance(t, Kronecker)]
    if len(products) < len(terms):
        return None
    first = products[0]
    if all(equal(t.right, first.right) for t in products):
        return Kronecker(torch.stack([t.left for t in products]).sum(0), first.right)
    if all(equal(t.left, first.left) for t in products):
        return Kronecker(first.left, torch.stack([t.right for t in products]).sum(0))
    return None


def _shared_basis(terms: Sequence[Operator]) -> EigenBasis | None:
    """All terms in one eigenbasis, their spectra added; None where the bases differ."""
    first = terms[0]
    if not isinstance(first, EigenBasis):
        return None
    total = first.spectrum
    for term in terms[1:]:
        same = (
            isinstance(term, EigenBasis) and term.left is first.left and term.right is first.right
        )
        if not same:
            return None
        assert isinstance(term, EigenBasis)
        total = total + term.spectrum
    return EigenBasis(first.left, first.right, total)


def _block_sum(terms: Sequence[BlockDiagonal], shift: Tensor) -> Operator:
    """(⊕ A_k) + (⊕ B_k) = ⊕ (A_k + B_k) where the blocks are the same."""
    first = terms[0]
    if not all(t.same_blocks(first) for t in terms):
        check_dense(first.size)
        return Dense(Sum((*terms, Identity(shift, first.size))).dense()).spectral_form()
    first, *others = aligned(terms)

    def added(*units: Operator) -> Operator:
        return Sum((*units, Identity(shift, units[0].size))).spectral_form()

    return first.with_parts(
        part.each(added, *(t.parts[k] for t in others)) for k, part in enumerate(first.parts)
    )


@dataclass(frozen=True, slots=True, eq=False)
class BlockDiagonal(Operator):
    """`⊕_k C_k`: block k acts on the entries `index[k]` of the parameter vector.

    Args:
        names: Of all blocks.
        parts: The blocks in their order; blocks of one structure may be one part (`Stacked`).
        places: For every part the entries that it acts on.
    """

    names: tuple[str, ...]
    parts: tuple[Operator, ...]
    places: tuple[Tensor, ...]
    structure: ClassVar[str] = "BlockDiagonal"

    @property
    def blocks(self) -> tuple[Operator, ...]:
        """Every block by itself."""
        return tuple(unit for part in self.parts for unit in part.units())

    @property
    def index(self) -> tuple[Tensor, ...]:
        """The entries that each block acts on."""
        pairs = zip(self.parts, self.places, strict=True)
        return tuple(own for part, index in pairs for own in index.reshape(part.count, -1))

    def named_parts(self) -> Iterator[tuple[tuple[str, ...], Operator, Tensor]]:
        """Every part with the names of its blocks and the entries that it acts on."""
        start = 0
        for part, index in zip(self.parts, self.places, strict=True):
            yield self.names[start : start + part.count], part, index
            start += part.count

    def with_parts(self, parts: Iterable[Operator]) -> BlockDiagonal:
        """Other parts in their places."""
        return BlockDiagonal(self.names, tuple(parts), self.places)

    def unstacked(self) -> BlockDiagonal:
        """The same with one part for each block."""
        return BlockDiagonal(self.names, self.blocks, self.index)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    @property
    def spectrum_known(self) -> bool:
        return all(part.spectrum_known for part in self.parts)

    def apply(self, v: Tensor) -> Tensor:
        out = torch.empty_like(v)
        for part, index in zip(self.parts, self.places, strict=True):
            out[index] = part.apply(v[index])
        return out

    def same_blocks(self, other: BlockDiagonal) -> bool:
        """Whether both cut the parameters into the same blocks, in the same order."""
        if self.same_parts(other):
            return True
        return len(self.names) == len(other.names) and all(
            torch.equal(x, y) for x, y in zip(self.index, other.index, strict=True)
        )

    def same_parts(self, other: BlockDiagonal) -> bool:
        """Whether the same blocks are held as one in both."""
        return [p.count for p in self.parts] == [p.count for p in other.parts] and all(
            torch.equal(x, y) for x, y in zip(self.places, other.places, strict=True)
        )

    def _scatter(self, parts: Sequence[Tensor]) -> Tensor:
        out = torch.empty(self.size, dtype=self.dtype, device=self.device)
        for part, index in zip(parts, self.places, strict=True):
            out[index] = part
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

    def tensors(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield from part.tensors()

    def describe(self) -> str:
        return " ⊕ ".join(
            f"{_shown(names)}: {part.describe()}" for names, part, _ in self.named_parts()
        )


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
