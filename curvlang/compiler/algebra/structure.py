"""Structure is found, not declared: what kind of matrix a yielded expression is, and why.

In: a yield in normal form whose tensors are finished statistics. Out: a structure term whose
components are expressions to be computed. The first rule that fits wins; the rules stand in
the order of how much they know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias, assert_never

from curvlang.compiler.algebra.canonical import canonical_term, mirrored
from curvlang.compiler.algebra.normal_form import (
    Elementwise,
    Factor,
    Poly,
    Power,
    Term,
    components,
    factor_indices,
    rename_poly,
)
from curvlang.ir.expr import Call, Delta, Index, Ref

MOST_SHARED = 4
"""Axes that the two halves of a product are tried to share: a pass sums over `n,r,t`, rarely more."""


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


def infer(
    poly: Poly,
    rows: Sequence[Index],
    columns: Sequence[Index],
    orthogonal: frozenset[str],
    tall: frozenset[str] = frozenset(),
    hessians: frozenset[str] = frozenset(),
) -> Shape:
    """The structure of a matrix given by its entries.

    Args:
        poly: Entries in normal form, free in rows and columns.
        rows: `(o, i)` for a layer's block, `(p,)` for the whole model.
        columns: The same, primed.
        orthogonal: Names of square matrices with orthonormal columns (eigenvectors).
        tall: Names of matrices with orthonormal columns and more rows than columns.
        hessians: Names of the Hessian as the model gives it.
    """
    bases = _Bases(orthogonal, tall)
    match poly:
        case (
            Term(coefficient=1.0, sizes=(), summed=(), factors=(Ref(name=name, indices=own),)),
        ) if name in hessians and own == (*rows, *columns):
            return LeafShape(name, "the Hessian of the mean loss itself")
        case (term,):
            return _term(term, tuple(rows), tuple(columns), bases)
        case _:
            pass
    if any(x.space == "n" for term in poly for x in term.summed):
        return DenseShape(poly, "a sum of several products, reduced over examples as one")
    if _mirror_images(poly, dict(zip(rows, columns, strict=True))):
        return DenseShape(poly, "a term and its transpose, neither symmetric by itself")
    found = tuple(_term(t, tuple(rows), tuple(columns), bases) for t in poly)
    if any(isinstance(shape, DenseShape) for shape in found):
        return DenseShape(poly, "a term of the sum has no structure of its own")
    return SumShape(found, f"a sum of {len(found)} terms, each with its own structure")


@dataclass(frozen=True, slots=True)
class _Bases:
    """Names of matrices with orthonormal columns: square ones, and taller ones."""

    square: frozenset[str]
    tall: frozenset[str]


def _mirror_images(poly: Poly, sides: Mapping[Index, Index]) -> bool:
    """Whether a term of a sum is the transpose of another: symmetric as a pair alone."""
    forms = [canonical_term(term) for term in poly]
    images = [canonical_term(mirrored(term, sides)) for term in poly]
    return any(image != form and image in forms for form, image in zip(forms, images, strict=True))


def _term(term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], bases: _Bases) -> Shape:
    if any(x.space == "n" for x in term.summed):
        return _gram(term, rows, columns)
    tied = _deltas(term, rows, columns)
    if len(tied) == len(rows):
        return _diagonal(term, rows, columns)
    rules = [_eigenbasis, _kronecker, _blocks, _low_rank] if len(rows) == 2 else [_low_rank]
    for rule in rules:
        shape = rule(term, rows, columns, bases)
        if shape is not None:
            return shape
    return DenseShape((term,), "no rule for structure fits the expression")


def _gram(term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...]) -> Shape:
    halves = split_product(term, rows, columns)
    if halves is None or any(x.space == "n" for x in halves.half.summed):
        return DenseShape((term,), "reduced over examples, with no product structure left")
    reason = "a sum over examples of outer products of one factor with itself"
    return GramShape((term,), halves, reason)


def split_product(term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...]) -> Halves | None:
    """Read a contraction as a factor times its own transpose, sharing as few axes as possible."""
    shared = _shared(term)
    for size in range(1, min(MOST_SHARED, len(shared)) + 1):
        for axes in combinations(shared, size):
            halves = _split_at(term, rows, columns, axes)
            if halves is not None:
                return halves
    return None


def _shared(term: Term) -> tuple[Index, ...]:
    """Bound indices that a factor and its mirror image could share: on two factors that are alike."""
    kinds: dict[Index, list[object]] = {x: [] for x in term.summed}
    for factor in term.factors:
        for index in dict.fromkeys(factor_indices(factor)):
            if index in kinds:
                kinds[index].append(_kind(factor))
    return tuple(x for x, found in kinds.items() if len(set(found)) < len(found))


def _kind(factor: Factor) -> object:
    match factor:
        case Ref(name=name):
            return name
        case Power(exponent=exponent):
            return exponent
        case Elementwise(function=function) | Call(function=function):
            return function
        case Delta():
            return Delta
        case _:
            assert_never(factor)


def _split_at(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], axes: tuple[Index, ...]
) -> Halves | None:
    inner = replace(term, summed=tuple(x for x in term.summed if x not in axes))
    parts: dict[str, list[Term]] = {"row": [], "column": [], "none": []}
    for part in components(inner, frozenset()):
        at_row, at_column = set(part.free) & set(rows), set(part.free) & set(columns)
        if at_row and at_column:
            return None
        parts["row" if at_row else "column" if at_column else "none"].append(part)
    half, other = _merge(parts["row"]), _merge(parts["column"])
    (other_half,) = rename_poly((other,), dict(zip(columns, rows, strict=True)))
    if set(half.free) & set(rows) != set(rows) or canonical_term(half) != canonical_term(
        other_half
    ):
        return None
    middle = replace(_merge(parts["none"]), coefficient=term.coefficient, sizes=term.sizes)
    used = tuple(x for x in axes if x in half.free)
    return Halves(half, middle, axes) if set(used) == set(axes) else None


def _deltas(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...]
) -> tuple[tuple[Index, Index], ...]:
    """Pairs (row, column) that a delta of the term ties together."""
    pairs = list(zip(rows, columns, strict=True))
    return tuple(
        pair
        for pair in pairs
        if any(isinstance(f, Delta) and {f.left, f.right} == set(pair) for f in term.factors)
    )


def _without_deltas(term: Term, pairs: Sequence[tuple[Index, Index]]) -> Term:
    """The term with those deltas gone and their columns written as rows."""
    rest = tuple(
        f
        for f in term.factors
        if not (isinstance(f, Delta) and any({f.left, f.right} == set(p) for p in pairs))
    )
    (renamed,) = rename_poly((replace(term, factors=rest),), {c: r for r, c in pairs})
    return renamed


def _diagonal(term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...]) -> Shape:
    inner = _without_deltas(term, list(zip(rows, columns, strict=True)))
    if not inner.free:
        return IdentityShape((inner,), "deltas on both sides and a number")
    return DiagonalShape((inner,), "deltas on both sides leave entries over the rows")


def _kronecker(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], _: _Bases
) -> Shape | None:
    sides: tuple[list[Term], list[Term]] = ([], [])
    scalars: list[Term] = []
    for part in components(term, frozenset()):
        own = set(part.free)
        if not own:
            scalars.append(part)
        elif own <= {rows[0], columns[0]}:
            sides[0].append(part)
        elif own <= {rows[1], columns[1]}:
            sides[1].append(part)
        else:
            return None
    if any(
        {x for p in side for x in p.free} != {rows[k], columns[k]} for k, side in enumerate(sides)
    ):
        return None
    left = replace(_merge(sides[0] + scalars), coefficient=term.coefficient, sizes=term.sizes)
    reason = (
        f"the factors over {rows[0]},{columns[0]} and over {rows[1]},{columns[1]} share no index"
    )
    return KroneckerShape((left,), (_merge(sides[1]),), reason)


def _merge(parts: Sequence[Term]) -> Term:
    return Term(
        1.0,
        (),
        tuple(x for part in parts for x in part.summed),
        tuple(f for part in parts for f in part.factors),
    )


def _eigenbasis(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], known: _Bases
) -> Shape | None:
    tied = dict(_deltas(term, rows, columns))
    inner = _without_deltas(term, list(tied.items()))
    axes: list[Index] = []
    bases: list[Ref | None] = []
    used: list[Factor] = []
    for row, column in zip(rows, columns, strict=True):
        if row in tied:
            axes.append(row)
            bases.append(None)
            continue
        pair = _basis_pair(inner, row, column, known.square | known.tall)
        if pair is None:
            return None
        axes.append(pair[0].indices[1])
        bases.append(pair[0])
        used.extend(pair)
    if not used or axes[0] == axes[1]:
        # Both sides may run along one axis, Σ_k U[o,k] V[i,k] s[k] …: that is not a Kronecker basis.
        return None
    left_over = list(inner.factors)
    for factor in used:
        # One of each: vectors that occur twice are not a basis.
        left_over.remove(factor)
    rest = tuple(left_over)
    spectrum = replace(inner, factors=rest, summed=tuple(x for x in inner.summed if x not in axes))
    if not set(spectrum.free) <= set(axes):
        return None
    if any(b is not None and b.name in known.tall for b in bases):
        # Only the rows' indices matter to a diagonal.
        inside = DiagonalShape((spectrum,), "entries over the columns of the bases")
        return lifted(inside, tuple(bases), (*axes, *axes))
    return EigenBasisShape(
        bases[0],
        bases[1],
        (spectrum,),
        (axes[0], axes[1]),
        "orthogonal factors on both sides of a diagonal",
    )


def _basis_pair(
    term: Term, row: Index, column: Index, orthogonal: frozenset[str]
) -> tuple[Ref, Ref] | None:
    """`Q[row,m]` and `Q[column,m]` with m bound and Q orthogonal."""
    for factor in term.factors:
        match factor:
            case Ref(name=name, indices=(first, axis)) if (
                name in orthogonal and first == row and axis in term.summed
            ):
                partner = Ref(name, (column, axis))
                if partner in term.factors:
                    return factor, partner
            case _:
                pass
    return None


def _blocks(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], _: _Bases
) -> Shape | None:
    tied = _deltas(term, rows, columns)
    if len(tied) != 1:
        return None
    axis = tied[0][0]
    word = "output" if axis == rows[0] else "input"
    inner = _without_deltas(term, tied)
    return BlocksShape(axis, word, (inner,), f"a delta ties {word}s together: one block per {word}")


def _low_rank(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], _: _Bases
) -> Shape | None:
    halves = split_product(term, rows, columns)
    if halves is None:
        return None
    return LowRankShape(
        (halves.half,), (halves.middle,), halves.axes, "a factor times its transpose"
    )


__all__ = [
    "BlocksShape",
    "DenseShape",
    "DiagonalShape",
    "EigenBasisShape",
    "GramShape",
    "IdentityShape",
    "KroneckerShape",
    "LeafShape",
    "LowRankShape",
    "ProductShape",
    "ProjectedShape",
    "Shape",
    "SumShape",
    "infer",
]
