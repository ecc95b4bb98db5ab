"""Sums of contractions: terms, their factors, and questions about their indices and names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from curvlang.ir.expr import Call, Delta, Index, Ref
from curvlang.ir.indices import rename


@dataclass(frozen=True, slots=True)
class Power:
    """`base ^ exponent`, elementwise; exponent 1 keeps a sum inside a product together."""

    base: Poly
    exponent: float


@dataclass(frozen=True, slots=True)
class Elementwise:
    """`exp`, `log`, `sqrt`, `abs`, `max`, `min` of expressions."""

    function: str
    arguments: tuple[Poly, ...]


Factor: TypeAlias = Ref | Delta | Call | Power | Elementwise


@dataclass(frozen=True, slots=True)
class Term:
    """`coefficient · Π size^power · Σ_summed Π factors`."""

    coefficient: float = 1.0
    sizes: tuple[tuple[str, int], ...] = ()
    summed: tuple[Index, ...] = ()
    factors: tuple[Factor, ...] = ()

    @property
    def free(self) -> tuple[Index, ...]:
        """Free indices in order of appearance."""
        found = (x for factor in self.factors for x in factor_indices(factor))
        return tuple(dict.fromkeys(x for x in found if x not in self.summed))


Poly: TypeAlias = tuple[Term, ...]


def poly_free(poly: Poly) -> tuple[Index, ...]:
    """Free indices of a sum of contractions."""
    return tuple(dict.fromkeys(x for term in poly for x in term.free))


def factor_indices(factor: Factor) -> tuple[Index, ...]:
    """Free indices of a factor, repetitions kept for `A[i,i]`."""
    match factor:
        case Ref(indices=indices) | Call(indices=indices):
            return indices
        case Delta(left=left, right=right):
            return (left, right)
        case Power(base=base):
            return poly_free(base)
        case Elementwise(arguments=arguments):
            return tuple(dict.fromkeys(x for poly in arguments for x in poly_free(poly)))
        case _:
            assert_never(factor)


def reads(poly: Poly) -> frozenset[str]:
    """Names of the tensors that a sum of contractions reads."""
    return frozenset(name for term in poly for f in term.factors for name in _factor_reads(f))


def _factor_reads(factor: Factor) -> Iterable[str]:
    match factor:
        case Ref(name=name):
            return (name,)
        case Delta():
            return ()
        case Call(arguments=arguments):
            return tuple(x.name for x in arguments if isinstance(x, Ref))
        case Power(base=base):
            return reads(base)
        case Elementwise(arguments=arguments):
            return frozenset(name for poly in arguments for name in reads(poly))
        case _:
            assert_never(factor)


def rename_factor(factor: Factor, mapping: dict[Index, Index]) -> Factor:
    """Rename free indices of a factor; bound ones never collide, having numbers of their own."""
    match factor:
        case Ref() | Delta() | Call():
            renamed = rename(factor, mapping)
            assert isinstance(renamed, Ref | Delta | Call)
            return renamed
        case Power(base=base):
            return replace(factor, base=rename_poly(base, mapping))
        case Elementwise(arguments=arguments):
            return replace(factor, arguments=tuple(rename_poly(p, mapping) for p in arguments))
        case _:
            assert_never(factor)


def rename_poly(poly: Poly, mapping: dict[Index, Index]) -> Poly:
    """Rename free indices of every term."""
    return tuple(
        replace(
            term,
            factors=tuple(
                rename_factor(f, {a: b for a, b in mapping.items() if a not in term.summed})
                for f in term.factors
            ),
        )
        for term in poly
    )
