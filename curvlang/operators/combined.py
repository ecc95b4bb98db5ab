"""Sums, multiples and direct sums: structures made of structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.basic import Dense, Diagonal, Identity
from curvlang.operators.kronecker import EigenBasis, Kronecker
from curvlang.operators.operator import Operator, Spectral, check_dense


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
        case BlockDiagonal(names=names, blocks=blocks, index=index):
            yield BlockDiagonal(names, tuple(Scaled(factor, b) for b in blocks), index)
        case _:
            yield operator if factor == 1.0 else Scaled(factor, operator)


def _shared_factor(terms: Sequence[Operator]) -> Kronecker | None:
    """G⊗A + H⊗A = (G+H)⊗A, and the same on the other side; None where no factor is shared."""
    products = [t for t in terms if isinstance(t, Kronecker)]
    if len(products) < len(terms):
        return None
    first = products[0]
    if all(torch.equal(t.right, first.right) for t in products):
        return Kronecker(torch.stack([t.left for t in products]).sum(0), first.right)
    if all(torch.equal(t.left, first.left) for t in products):
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
    blocks = tuple(
        Sum((*(t.blocks[k] for t in terms), Identity(shift, b.size))).spectral_form()
        for k, b in enumerate(first.blocks)
    )
    return BlockDiagonal(first.names, blocks, first.index)


@dataclass(frozen=True, slots=True, eq=False)
class BlockDiagonal(Operator):
    """`⊕_k C_k`: block k acts on the entries `index[k]` of the parameter vector."""

    names: tuple[str, ...]
    blocks: tuple[Operator, ...]
    index: tuple[Tensor, ...]
    structure: ClassVar[str] = "BlockDiagonal"

    @property
    def size(self) -> int:
        return sum(block.size for block in self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks[0].dtype

    @property
    def device(self) -> torch.device:
        return self.blocks[0].device

    @property
    def spectrum_known(self) -> bool:
        return all(block.spectrum_known for block in self.blocks)

    def apply(self, v: Tensor) -> Tensor:
        out = torch.empty_like(v)
        for block, index in zip(self.blocks, self.index, strict=True):
            out[index] = block.apply(v[index])
        return out

    def same_blocks(self, other: BlockDiagonal) -> bool:
        """Whether both cut the parameters into the same blocks, in the same order."""
        return len(self.index) == len(other.index) and all(
            torch.equal(x, y) for x, y in zip(self.index, other.index, strict=True)
        )

    def _scatter(self, parts: Sequence[Tensor]) -> Tensor:
        out = torch.empty(self.size, dtype=self.dtype, device=self.device)
        for part, index in zip(parts, self.index, strict=True):
            out[index] = part
        return out

    def diagonal(self) -> Tensor:
        return self._scatter([block.diagonal() for block in self.blocks])

    def trace(self) -> Tensor:
        return torch.stack([block.trace() for block in self.blocks]).sum()

    def frobenius(self) -> Tensor:
        return torch.stack([block.frobenius() for block in self.blocks]).norm()

    def eigenvalues(self) -> Tensor:
        return torch.cat([block.eigenvalues() for block in self.blocks])

    def spectral_form(self) -> Operator:
        blocks = tuple(block.spectral_form() for block in self.blocks)
        return BlockDiagonal(self.names, blocks, self.index)

    def spectral(self, function: Spectral) -> Operator:
        blocks = tuple(block.spectral(function) for block in self.blocks)
        return BlockDiagonal(self.names, blocks, self.index)

    def tensors(self) -> Iterator[Tensor]:
        for block in self.blocks:
            yield from block.tensors()

    def describe(self) -> str:
        return " ⊕ ".join(
            f"{name}: {block.describe()}"
            for name, block in zip(self.names, self.blocks, strict=True)
        )
