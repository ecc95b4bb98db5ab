"""Structures of a matrix as terms: what kind it is, the expressions of its components, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from curvlang.compiler.algebra.terms import Poly, Term
from curvlang.ir.expr import Index, Ref


@dataclass(frozen=True, slots=True)
class IdentityShape:
    """`scale · I`."""

    scale: Poly
    reason: str


@dataclass(frozen=True, slots=True)
class DiagonalShape:
    """Entries over the row indices."""

    entries: Poly
    reason: str


@dataclass(frozen=True, slots=True)
class KroneckerShape:
    """`left ⊗ right`, left over `o,o'`, right over `i,i'`."""

    left: Poly
    right: Poly
    reason: str


@dataclass(frozen=True, slots=True)
class EigenBasisShape:
    """`(U ⊗ V) diag(S) (U ⊗ V)ᵀ`; a basis that is `None` is the identity."""

    left: Ref | None
    right: Ref | None
    spectrum: Poly
    axes: tuple[Index, Index]
    reason: str


@dataclass(frozen=True, slots=True)
class BlocksShape:
    """One block per output (entries `[o,i,i']`) or per input (`[i,o,o']`): `unit` says which."""

    axis: Index
    unit: str
    entries: Poly
    reason: str


@dataclass(frozen=True, slots=True)
class LowRankShape:
    """`Σ_k W[row,k] s[k] W[row',k]`."""

    factor: Poly
    spectrum: Poly
    axes: tuple[Index, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class LeafShape:
    """The Hessian leaf itself, whole or restricted to a block."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Halves:
    """`Σ_axes half[row,axes] · middle[axes] · half[column,axes]`, with the half written in rows."""

    half: Term
    middle: Term
    axes: tuple[Index, ...]


@dataclass(frozen=True, slots=True)
class GramShape:
    """A mean over examples of outer products, accumulated as entries or kept as a product."""

    entries: Poly
    halves: Halves
    reason: str


@dataclass(frozen=True, slots=True)
class DenseShape:
    """Every entry."""

    entries: Poly
    reason: str


@dataclass(frozen=True, slots=True)
class ProductShape:
    """A matrix known only by its products with vectors, since its entries do not fit."""

    source: LeafShape | GramShape
    reason: str


@dataclass(frozen=True, slots=True)
class SumShape:
    """A sum of structures."""

    terms: tuple[Shape, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ProjectedShape:
    """`(R ⊗ P) inner (R ⊗ P)ᵀ` with orthonormal columns; one basis per row index or None."""

    inner: Shape
    bases: tuple[Ref | None, ...]
    indices: tuple[Index, ...]
    reason: str


Shape: TypeAlias = (
    ProjectedShape
    | IdentityShape
    | DiagonalShape
    | KroneckerShape
    | EigenBasisShape
    | BlocksShape
    | LowRankShape
    | LeafShape
    | GramShape
    | DenseShape
    | ProductShape
    | SumShape
)


def lifted(
    inner: Shape, bases: tuple[Ref | None, ...], indices: tuple[Index, ...]
) -> ProjectedShape:
    """The structure of what a projection lifts back, over the inner indices."""
    names = " ⊗ ".join("I" if b is None else b.name for b in bases)
    reason = f"lifted by {names}, whose columns are orthonormal; inside, {inner.reason}"
    return ProjectedShape(inner, bases, indices, reason)
