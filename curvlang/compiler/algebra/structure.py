"""Structure is found, not declared: what kind of matrix a yielded expression is, and why.

In: a yield in normal form whose tensors are finished statistics. Out: a structure term whose
components are expressions to be computed. The first rule that fits wins; the rules stand in
the order of how much they know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from curvlang.compiler.algebra import shapes
from curvlang.compiler.algebra.canonical import canonical_term, mirrored
from curvlang.compiler.algebra.halves import merged, split_product
from curvlang.compiler.algebra.normal_form import components
from curvlang.compiler.algebra.terms import (
    Factor,
    Poly,
    Term,
    rename_poly,
)
from curvlang.ir.expr import Delta, Index, Ref


def infer(
    poly: Poly,
    rows: Sequence[Index],
    columns: Sequence[Index],
    orthogonal: frozenset[str],
    tall: frozenset[str] = frozenset(),
    hessians: frozenset[str] = frozenset(),
) -> shapes.Shape:
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
            return shapes.LeafShape(name, "the Hessian of the mean loss itself")
        case (term,):
            return _term(term, tuple(rows), tuple(columns), bases)
        case _:
            pass
    if any(x.space == "n" for term in poly for x in term.summed):
        return shapes.DenseShape(poly, "a sum of several products, reduced over examples as one")
    if _mirror_images(poly, dict(zip(rows, columns, strict=True))):
        return shapes.DenseShape(poly, "a term and its transpose, neither symmetric by itself")
    found = tuple(_term(t, tuple(rows), tuple(columns), bases) for t in poly)
    if any(isinstance(shape, shapes.DenseShape) for shape in found):
        return shapes.DenseShape(poly, "a term of the sum has no structure of its own")
    return shapes.SumShape(found, f"a sum of {len(found)} terms, each with its own structure")


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


def _term(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], bases: _Bases
) -> shapes.Shape:
    if any(x.space == "n" for x in term.summed):
        return _gram(term, rows, columns)
    tied = _deltas(term, rows, columns)
    if len(tied) == len(rows):
        return _diagonal(term, rows, columns)
    for rule in RULES:
        shape = rule.find(term, rows, columns, bases) if len(rows) in rule.rows else None
        if shape is not None:
            return shape
    return shapes.DenseShape((term,), "no rule for structure fits the expression")


def _gram(term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...]) -> shapes.Shape:
    halves = split_product(term, rows, columns)
    if halves is None or any(x.space == "n" for x in halves.half.summed):
        return shapes.DenseShape((term,), "reduced over examples, with no product structure left")
    reason = "a sum over examples of outer products of one factor with itself"
    return shapes.GramShape((term,), halves, reason)


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


def _diagonal(term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...]) -> shapes.Shape:
    inner = _without_deltas(term, list(zip(rows, columns, strict=True)))
    if not inner.free:
        return shapes.IdentityShape((inner,), "deltas on both sides and a number")
    return shapes.DiagonalShape((inner,), "deltas on both sides leave entries over the rows")


def _kronecker(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], _: _Bases
) -> shapes.Shape | None:
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
    left = replace(merged(sides[0] + scalars), coefficient=term.coefficient, sizes=term.sizes)
    reason = (
        f"the factors over {rows[0]},{columns[0]} and over {rows[1]},{columns[1]} share no index"
    )
    return shapes.KroneckerShape((left,), (merged(sides[1]),), reason)


def _eigenbasis(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], known: _Bases
) -> shapes.Shape | None:
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
        # Both sides may run along one axis, Σ_k U[o,k] V[i,k] s[k] …: no Kronecker basis then.
        return None
    left_over = list(inner.factors)
    for factor in used:
        # One of each: vectors that appear twice do not form a basis.
        left_over.remove(factor)
    rest = tuple(left_over)
    spectrum = replace(inner, factors=rest, summed=tuple(x for x in inner.summed if x not in axes))
    if not set(spectrum.free) <= set(axes):
        return None
    if any(b is not None and b.name in known.tall for b in bases):
        # Only the rows' indices matter to a diagonal.
        inside = shapes.DiagonalShape((spectrum,), "entries over the columns of the bases")
        return shapes.lifted(inside, tuple(bases), (*axes, *axes))
    return shapes.EigenBasisShape(
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
) -> shapes.Shape | None:
    tied = _deltas(term, rows, columns)
    if len(tied) != 1:
        return None
    axis = tied[0][0]
    word = "output" if axis == rows[0] else "input"
    inner = _without_deltas(term, tied)
    return shapes.BlocksShape(
        axis, word, (inner,), f"a delta ties {word}s together: one block per {word}"
    )


def _low_rank(
    term: Term, rows: tuple[Index, ...], columns: tuple[Index, ...], _: _Bases
) -> shapes.Shape | None:
    halves = split_product(term, rows, columns)
    if halves is None:
        return None
    return shapes.LowRankShape(
        (halves.half,), (halves.middle,), halves.axes, "a factor times its transpose"
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of structure.

    Args:
        example: Entries of a block that it fits.
        structure: What they are found to be.
        find: The structure of a term; None where the rule does not fit.
        rows: For how many row indices: two of a layer's block, one of the whole model.
    """

    example: str
    structure: str
    find: Callable[[Term, tuple[Index, ...], tuple[Index, ...], _Bases], shapes.Shape | None]
    rows: tuple[int, ...] = (2,)


RULES = (
    Rule("sum[k,j] U[o,j] * V[i,k] * S[j,k] * U[o',j] * V[i',k]", "EigenBasis", _eigenbasis),
    Rule("B[o,o'] * A[i,i']", "Kronecker", _kronecker),
    Rule("identity[o,o'] * D[o,i,i']", "PerOutput", _blocks),
    Rule("sum[m] W[o,i,m] * W[o',i',m]", "LowRank", _low_rank, rows=(1, 2)),
)
"""The rules of structure; the first that fits wins: the order is that of how much they know."""
