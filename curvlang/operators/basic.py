"""Dense, Eigen, CholeskyInverse, Diagonal and Identity: the structures that need no second factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.operator import Operator
from curvlang.operators.spectrum import Spectral, symmetric_eigh


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dense(Operator):
    """Every entry of a symmetric matrix `[P, P]`."""

    matrix: Tensor
    structure: ClassVar[str] = "Dense"
    symmetric: ClassVar[tuple[str, ...]] = ("matrix",)
    axes: ClassVar[Mapping[str, str]] = {"matrix": "PP"}

    def apply(self, v: Tensor) -> Tensor:
        return self.matrix @ v

    def dense(self) -> Tensor:
        return self.matrix.clone()

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal().clone()

    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.matrix)

    def frobenius(self) -> Tensor:
        return self.matrix.norm()

    def spectral_form(self) -> Operator:
        values, vectors = symmetric_eigh(self.matrix, f"a {self.size} × {self.size} block")
        return Eigen(vectors, values)

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form().spectral(function)

    def describe(self) -> str:
        return f"Dense {self.size}×{self.size}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Eigen(Operator):
    """`Q diag(s) Qᵀ` with Q orthogonal `[P, P]`: a dense matrix, decomposed."""

    vectors: Tensor
    values: Tensor
    structure: ClassVar[str] = "Eigen"
    axes: ClassVar[Mapping[str, str]] = {"vectors": "PP", "values": "P"}

    def apply(self, v: Tensor) -> Tensor:
        return self.vectors @ (self.values[:, None] * (self.vectors.T @ v))

    def diagonal(self) -> Tensor:
        return self.vectors.square() @ self.values

    def trace(self) -> Tensor:
        return self.values.sum()

    def eigenvalues(self) -> Tensor:
        return self.values.clone()

    def spectral_form(self) -> Operator:
        return self

    def spectral(self, function: Spectral) -> Operator:
        return Eigen(self.vectors, function(self.values))

    def describe(self) -> str:
        return f"Eigen {self.size}×{self.size}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CholeskyInverse(Operator):
    """`(L Lᵀ)⁻¹` with L lower triangular `[P, P]`: an inverse that is solved with and never formed.

    P³/3 operations to factor and 2 P² for a vector, where forming the inverse takes 2 P³/3 more.
    """

    root: Tensor
    structure: ClassVar[str] = "CholeskyInverse"
    axes: ClassVar[Mapping[str, str]] = {"root": "PP"}

    def apply(self, v: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(self.root, v, upper=False)
        return torch.linalg.solve_triangular(self.root.mT, half, upper=True)

    def root_product(self, noise: Tensor) -> Tensor:
        """`L⁻ᵀ z`: the factor at hand is a root, L⁻ᵀ L⁻¹ = (L Lᵀ)⁻¹."""
        return torch.linalg.solve_triangular(self.root.mT, noise, upper=True)

    def dense(self) -> Tensor:
        return torch.cholesky_inverse(self.root)

    def diagonal(self) -> Tensor:
        return self.dense().diagonal().clone()

    def eigenvalues(self) -> Tensor:
        return torch.linalg.svdvals(self.root).square().reciprocal()

    def spectral_form(self) -> Operator:
        """From the singular values of L: those of L Lᵀ would lose the digits of its small ones."""
        vectors, values, _ = torch.linalg.svd(self.root)
        return Eigen(vectors, values.square().reciprocal())

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form().spectral(function)

    def describe(self) -> str:
        return f"CholeskyInverse {self.size}×{self.size}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Diagonal(Operator):
    """`diag(d)` with entries `[P]`."""

    entries: Tensor
    structure: ClassVar[str] = "Diagonal"
    axes: ClassVar[Mapping[str, str]] = {"entries": "P"}

    def apply(self, v: Tensor) -> Tensor:
        return self.entries[:, None] * v

    def diagonal(self) -> Tensor:
        return self.entries.clone()

    def eigenvalues(self) -> Tensor:
        return self.entries.clone()

    def spectral_form(self) -> Operator:
        return self

    def spectral(self, function: Spectral) -> Operator:
        return Diagonal(function(self.entries))

    def describe(self) -> str:
        return f"Diagonal {self.size}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Identity(Operator):
    """`c · I`: one number, and the size."""

    scale: Tensor
    length: int
    structure: ClassVar[str] = "Identity"
    axes: ClassVar[Mapping[str, str]] = {"scale": ""}

    def misfit(self) -> str:
        """A vector has an entry or more."""
        return "" if self.length >= 1 else f"has the size {self.length}"

    @property
    def size(self) -> int:
        return self.length

    def apply(self, v: Tensor) -> Tensor:
        return self.scale * v

    def diagonal(self) -> Tensor:
        return self.scale.expand(self.length).clone()

    def eigenvalues(self) -> Tensor:
        return self.diagonal()

    def spectral_form(self) -> Operator:
        return self

    def spectral(self, function: Spectral) -> Operator:
        return Identity(function(self.scale.reshape(1))[0], self.length)

    def describe(self) -> str:
        return f"{float(self.scale):.3g} · I {self.length}"
