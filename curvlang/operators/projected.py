"""Projected: a structure in a small space, lifted by bases with orthonormal columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.basic import Diagonal, Identity
from curvlang.operators.kronecker import EigenBasis, Kronecker, rotated_diagonal
from curvlang.operators.operator import Operator
from curvlang.operators.spectrum import Spectral, same


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Projected(Operator):
    """`B (C − c I) Bᵀ + c I` with B = R ⊗ P, R `[O, M]` and P `[I, K]` with orthonormal columns.

    C acts on the M·K coordinates in the columns of B, and the number c on their complement: 0 for
    a projected matrix, f(0) after a spectral function. A basis that is None is the identity of
    the length that the sizes leave over.
    """

    inner: Operator
    left: Tensor | None
    right: Tensor | None
    complement: Tensor
    structure: ClassVar[str] = "Projected"
    axes: ClassVar[Mapping[str, str]] = {"left": "OM", "right": "IK", "complement": ""}

    def misfit(self) -> str:
        """Bases as wide as the inner operator is long, none wider than it is tall."""
        bases = [x.shape for x in (self.left, self.right) if x is not None]
        if not bases:
            return "has no basis"
        if any(wide < narrow for wide, narrow in bases):
            return "has a basis with more columns than rows"
        narrow = prod(shape[1] for shape in bases)
        exact = len(bases) == 2
        if self.inner.size != narrow if exact else self.inner.size % narrow:
            return f"has bases of {narrow} columns for an inner operator of size {self.inner.size}"
        return ""

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(O, M) and (I, K)."""
        if self.left is None:
            assert self.right is not None
            wide, narrow = self.right.shape
            side = self.inner.size // narrow
            return (side, side), (wide, narrow)
        wide, narrow = self.left.shape
        side = self.inner.size // narrow
        right = (side, side) if self.right is None else (self.right.shape[0], self.right.shape[1])
        return (wide, narrow), right

    @property
    def size(self) -> int:
        (o, _), (i, _) = self.shapes
        return o * i

    def into(self, v: Tensor) -> Tensor:
        """Bᵀ v = vec(Rᵀ X P) for columns `v [O·I, k]`."""
        (o, _), (i, _) = self.shapes
        x = v.reshape(o, i, -1)
        if self.left is not None:
            x = torch.einsum("om,oik->mik", self.left, x)
        if self.right is not None:
            x = torch.einsum("ij,mik->mjk", self.right, x)
        return x.reshape(self.inner.size, -1)

    def out(self, x: Tensor) -> Tensor:
        """B x = vec(R Y Pᵀ) for columns `x [M·K, k]`."""
        (_, m), (_, j) = self.shapes
        y = x.reshape(m, j, -1)
        if self.right is not None:
            y = torch.einsum("ij,mjk->mik", self.right, y)
        if self.left is not None:
            y = torch.einsum("om,mik->oik", self.left, y)
        return y.reshape(self.size, -1)

    def apply(self, v: Tensor) -> Tensor:
        x = self.into(v)
        return self.out(self.inner.apply(x) - self.complement * x) + self.complement * v

    def diagonal(self) -> Tensor:
        """B² diag(C) where C is diagonal in the coordinates of B; the rows of B C Bᵀ otherwise."""
        (o, _), (i, _) = self.shapes
        kept = torch.ones(o, i, dtype=self.dtype, device=self.device)
        if self.left is not None:
            kept = self.left.square().sum(1)[:, None] * kept
        if self.right is not None:
            kept = kept * self.right.square().sum(1)
        return self._inner_diagonal() + self.complement * (1 - kept.reshape(-1))

    def _inner_diagonal(self) -> Tensor:
        (_, m), (_, j) = self.shapes
        match self.inner:
            case Kronecker(left=g, right=a):
                return Kronecker(_lift(self.left, g), _lift(self.right, a)).diagonal()
            case EigenBasis(left=u, right=v, spectrum=spectrum):
                left, right = _after(self.left, u), _after(self.right, v)
                return rotated_diagonal(left, right, spectrum)
            case Diagonal() | Identity():
                entries = self.inner.diagonal().reshape(m, j)
                return rotated_diagonal(self.left, self.right, entries)
            case _:
                entries = self.inner.dense().reshape(m, j, m, j)
                if self.right is not None:
                    entries = torch.einsum("ij,mjnk,ik->mni", self.right, entries, self.right)
                else:
                    entries = entries.diagonal(dim1=1, dim2=3)
                if self.left is not None:
                    entries = torch.einsum("om,mni,on->oi", self.left, entries, self.left)
                else:
                    entries = entries.diagonal(dim1=0, dim2=1).T
                return entries.reshape(-1)

    def trace(self) -> Tensor:
        """Tr C + c (P − M·K)."""
        return self.inner.trace() + self.complement * (self.size - self.inner.size)

    def frobenius(self) -> Tensor:
        """‖C‖² + c² (P − M·K), under a root."""
        rest = self.complement.square() * (self.size - self.inner.size)
        return (self.inner.frobenius().square() + rest).sqrt()

    def eigenvalues(self) -> Tensor:
        """Those of C, and c on the complement."""
        rest = self.complement.expand(self.size - self.inner.size)
        return torch.cat([self.inner.eigenvalues(), rest])

    def spectral_form(self) -> Operator:
        return Projected(self.inner.spectral_form(), self.left, self.right, self.complement)

    def spectral(self, function: Spectral) -> Operator:
        """f(B C Bᵀ) = B (f(C) − f(0) I) Bᵀ + f(0) I."""
        inner = self.inner.spectral(function)
        if self.inner.size == self.size:
            return Projected(inner, self.left, self.right, self.complement)
        complement = function(self.complement.reshape(1))[0]
        return Projected(inner, self.left, self.right, complement)

    def same_space(self, other: Projected) -> bool:
        """Whether both project to the same columns."""
        return same(self.left, other.left) and same(self.right, other.right)

    def describe(self) -> str:
        (o, m), (i, j) = self.shapes
        rest = "" if float(self.complement) == 0 else " + complement"
        return f"Projected {o}·{i} → {m}·{j}: {self.inner.describe()}{rest}"


def projected(inner: Operator, left: Tensor | None, right: Tensor | None) -> Operator:
    """`(R ⊗ P) C (R ⊗ P)ᵀ`, zero on the complement."""
    zero = torch.zeros((), dtype=inner.dtype, device=inner.device)
    return Projected(inner, left, right, zero)


def _lift(basis: Tensor | None, matrix: Tensor) -> Tensor:
    """`P A Pᵀ`."""
    return matrix if basis is None else basis @ matrix @ basis.T


def _after(basis: Tensor | None, inner: Tensor | None) -> Tensor | None:
    """`P V`, with None for identities."""
    if basis is None or inner is None:
        return basis if inner is None else inner
    return basis @ inner
