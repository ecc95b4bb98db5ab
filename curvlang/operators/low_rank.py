"""Low rank and Gram: a basis of a few directions, and one value for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.basic import Dense
from curvlang.operators.operator import Operator
from curvlang.operators.spectrum import Spectral, symmetric_eigh


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LowRank(Operator):
    """`Q diag(s) Qᵀ + c (I − Q Qᵀ)`, Q `[P, K]` with orthonormal columns.

    The complement's value c is 0 for a low-rank matrix; a spectral function makes it f(0), which
    is Woodbury's identity read as a statement about eigenvalues.
    """

    basis: Tensor
    values: Tensor
    complement: Tensor
    structure: ClassVar[str] = "LowRank"
    axes: ClassVar[Mapping[str, str]] = {"basis": "PK", "values": "K", "complement": ""}

    def apply(self, v: Tensor) -> Tensor:
        return self.basis @ ((self.values - self.complement)[:, None] * (self.basis.T @ v)) + (
            self.complement * v
        )

    def diagonal(self) -> Tensor:
        return self.basis.square() @ (self.values - self.complement) + self.complement

    def trace(self) -> Tensor:
        """Σ s + c (P − K)."""
        return self.values.sum() + self.complement * (self.size - len(self.values))

    def eigenvalues(self) -> Tensor:
        rest = self.complement.expand(self.size - len(self.values))
        return torch.cat([self.values, rest])

    def spectral_form(self) -> Operator:
        return self

    def spectral(self, function: Spectral) -> Operator:
        if len(self.values) == self.size:
            return LowRank(self.basis, function(self.values), self.complement)
        both = function(torch.cat([self.values, self.complement.reshape(1)]))
        return LowRank(self.basis, both[:-1], both[-1])

    def describe(self) -> str:
        rest = "" if float(self.complement) == 0 else " + complement"
        return f"LowRank {self.size}×{len(self.values)}{rest}"


def low_rank(factor: Tensor, spectrum: Tensor) -> Operator:
    """`W diag(s) Wᵀ` with any W `[P, K]`: orthonormalised once (W = QR, then R diag(s) Rᵀ)."""
    if factor.shape[1] >= factor.shape[0]:
        return Dense((factor * spectrum) @ factor.T)
    basis, triangle = torch.linalg.qr(factor)
    values, vectors = symmetric_eigh((triangle * spectrum) @ triangle.T, "a low-rank core")
    return LowRank(basis @ vectors, values, values.new_zeros(()))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Gram(Operator):
    """`X Xᵀ` with columns X `[P, K]`, kept as the product."""

    columns: Tensor
    structure: ClassVar[str] = "Gram"
    axes: ClassVar[Mapping[str, str]] = {"columns": "PK"}

    def apply(self, v: Tensor) -> Tensor:
        return self.columns @ (self.columns.T @ v)

    def diagonal(self) -> Tensor:
        return self.columns.square().sum(1)

    def frobenius(self) -> Tensor:
        """‖XXᵀ‖ = ‖XᵀX‖: the smaller of the two is formed."""
        x = self.columns
        return (x.T @ x if x.shape[1] < x.shape[0] else x @ x.T).norm()

    def eigenvalues(self) -> Tensor:
        return self.spectral_form().eigenvalues()

    def spectral_form(self) -> Operator:
        """Dense where there are more columns than rows, else the basis of the columns."""
        x = self.columns
        return low_rank(x, x.new_ones(x.shape[1])).spectral_form()

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form().spectral(function)

    def describe(self) -> str:
        return f"Gram {self.size}×{self.columns.shape[1]}"
