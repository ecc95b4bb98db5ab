"""Sums and multiples of operators, kept in blocks where their terms are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.basic import Dense, Diagonal, Identity
from curvlang.operators.block_diagonal import BlockDiagonal, aligned
from curvlang.operators.kronecker import EigenBasis, Kronecker
from curvlang.operators.operator import Operator, check_dense
from curvlang.operators.spectrum import Spectral, equal, same


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scaled(Operator):
    """`c · C`."""

    factor: float
    operator: Operator
    structure: ClassVar[str] = "Scaled"

    @property
    def size(self) -> int:
        return self.operator.size

    def apply(self, v: Tensor) -> Tensor:
        return self.factor * self.operator.apply(v)

    def linear_terms(self) -> Iterator[tuple[float, Operator]]:
        yield from ((self.factor * factor, x) for factor, x in self.operator.linear_terms())

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

    def describe(self) -> str:
        return f"{self.factor:.3g} · ({self.operator.describe()})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sum(Operator):
    """`C_1 + C_2 + …`."""

    terms: tuple[Operator, ...]
    structure: ClassVar[str] = "Sum"
    mixed: ClassVar[bool] = True

    def misfit(self) -> str:
        """One term or more, all of one size."""
        if not self.terms:
            return "has no terms"
        sizes = sorted({term.size for term in self.terms})
        return f"has terms of sizes {', '.join(map(str, sizes))}" if len(sizes) > 1 else ""

    @property
    def size(self) -> int:
        return self.terms[0].size

    def apply(self, v: Tensor) -> Tensor:
        # Products run in the model's precision, statistics in float64: each term in its own.
        parts = [term.apply(v.to(term.dtype)).to(v.dtype) for term in self.terms]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def linear_terms(self) -> Iterator[tuple[float, Operator]]:
        for term in self.terms:
            yield from term.linear_terms()

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
        if not isinstance(term, EigenBasis):
            return None
        if not (same(term.left, first.left) and same(term.right, first.right)):
            return None
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


def scaled(factor: float, operator: Operator) -> Operator:
    """The multiple c · C: c · (⊕ C_k) = ⊕ c C_k, and a multiple of I stays one."""
    match operator:
        case _ if factor == 1.0:
            return operator
        case Identity(scale=scale, length=length):
            return Identity(factor * scale, length)
        case Scaled(factor=inner, operator=inside):
            return scaled(factor * inner, inside)
        case BlockDiagonal(parts=parts):
            return operator.with_parts(p.each(lambda unit: scaled(factor, unit)) for p in parts)
        case Sum(terms=terms):
            return Sum(tuple(scaled(factor, t) for t in terms))
        case _:
            return Scaled(factor, operator)


def added(terms: Sequence[Operator]) -> Operator:
    """C_1 + C_2 + …; (⊕ A_k) + (⊕ B_k) + c I = ⊕ (A_k + B_k + c I) where the blocks are the same."""
    flat = [inner for term in terms for inner in _summands(term)]
    if len(flat) == 1:
        return flat[0]
    cut = [t for t in flat if isinstance(t, BlockDiagonal)]
    rest = [t for t in flat if not isinstance(t, BlockDiagonal)]
    shifts = [t for t in rest if isinstance(t, Identity)]
    if cut and len(shifts) == len(rest) and all(t.same_blocks(cut[0]) for t in cut):
        first, *others = aligned(cut)

        def with_shifts(*units: Operator) -> Operator:
            return added([*units, *(Identity(s.scale, units[0].size) for s in shifts)])

        return first.with_parts(
            part.each(with_shifts, *(t.parts[k] for t in others))
            for k, part in enumerate(first.parts)
        )
    return Sum(tuple(flat))


def _summands(term: Operator) -> Iterator[Operator]:
    if isinstance(term, Sum):
        for inner in term.terms:
            yield from _summands(inner)
    else:
        yield term
