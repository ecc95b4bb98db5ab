"""Kronecker products and diagonals in a Kronecker eigenbasis, over vectors flattened row-major."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.operator import Operator
from curvlang.operators.spectrum import Spectral, symmetric_eigh


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Kronecker(Operator):
    """`G ⊗ A` with G `[O, O]` over outputs and A `[I, I]` over inputs; size O·I."""

    left: Tensor
    right: Tensor
    structure: ClassVar[str] = "Kronecker"
    symmetric: ClassVar[tuple[str, ...]] = ("left", "right")
    axes: ClassVar[Mapping[str, str]] = {"left": "OO", "right": "II"}
    rows: ClassVar[str] = "OI"

    def apply(self, v: Tensor) -> Tensor:
        """(G⊗A) vec(X) = vec(G X Aᵀ)."""
        x = v.reshape(len(self.left), len(self.right), -1)
        return torch.einsum("op,ij,pjk->oik", self.left, self.right, x).reshape(v.shape)

    def diagonal(self) -> Tensor:
        """diag(G⊗A) = diag(G) ⊗ diag(A)."""
        return torch.outer(self.left.diagonal(), self.right.diagonal()).reshape(-1)

    def trace(self) -> Tensor:
        """tr(G⊗A) = tr G · tr A."""
        return self.left.trace() * self.right.trace()

    def frobenius(self) -> Tensor:
        """‖G⊗A‖ = ‖G‖ ‖A‖."""
        return self.left.norm() * self.right.norm()

    def eigenvalues(self) -> Tensor:
        """Products of the factors' eigenvalues."""
        g, a = torch.linalg.eigvalsh(self.left), torch.linalg.eigvalsh(self.right)
        return torch.outer(g, a).reshape(-1)

    def spectral_form(self) -> Operator:
        """G⊗A = (U⊗V) diag(s_G ⊗ s_A) (U⊗V)ᵀ."""
        g, left = symmetric_eigh(self.left, "a Kronecker factor over outputs")
        a, right = symmetric_eigh(self.right, "a Kronecker factor over inputs")
        return EigenBasis(left, right, torch.outer(g, a))

    def spectral(self, function: Spectral) -> Operator:
        """f(G⊗A) = (U⊗V) diag(f(s_G s_A)) (U⊗V)ᵀ."""
        return self.spectral_form().spectral(function)

    def describe(self) -> str:
        o, i = len(self.left), len(self.right)
        return f"Kronecker {o}×{o} ⊗ {i}×{i}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EigenBasis(Operator):
    """`(U ⊗ V) diag(S) (U ⊗ V)ᵀ`, S `[O, I]`; a basis that is None is the identity."""

    left: Tensor | None
    right: Tensor | None
    spectrum: Tensor
    structure: ClassVar[str] = "EigenBasis"
    axes: ClassVar[Mapping[str, str]] = {"left": "OO", "right": "II", "spectrum": "OI"}
    rows: ClassVar[str] = "OI"

    def apply(self, v: Tensor) -> Tensor:
        """U (S ∘ (Uᵀ X V)) Vᵀ."""
        x = v.reshape(*self.spectrum.shape, -1)
        return self.out_of_basis(self.spectrum[..., None] * self.into_basis(x)).reshape(v.shape)

    def into_basis(self, x: Tensor) -> Tensor:
        """Uᵀ X V for `x [O, I, k]`."""
        o, i, k = x.shape
        if self.left is not None:
            x = (self.left.T @ x.reshape(o, i * k)).reshape(o, i, k)
        return x if self.right is None else self.right.T @ x

    def out_of_basis(self, x: Tensor) -> Tensor:
        """U X Vᵀ for `x [O, I, k]`."""
        o, i, k = x.shape
        if self.left is not None:
            x = (self.left @ x.reshape(o, i * k)).reshape(o, i, k)
        return x if self.right is None else self.right @ x

    def diagonal(self) -> Tensor:
        return rotated_diagonal(self.left, self.right, self.spectrum)

    def trace(self) -> Tensor:
        """The basis is orthogonal: tr = Σ S."""
        return self.spectrum.sum()

    def eigenvalues(self) -> Tensor:
        return self.spectrum.reshape(-1).clone()

    def spectral_form(self) -> Operator:
        return self

    def spectral(self, function: Spectral) -> Operator:
        """F acts on S alone."""
        return EigenBasis(self.left, self.right, function(self.spectrum))

    def describe(self) -> str:
        o, i = self.spectrum.shape
        sides = ["I" if q is None else f"{n}×{n}" for q, n in ((self.left, o), (self.right, i))]
        return f"EigenBasis {sides[0]} ⊗ {sides[1]}"


def rotated_diagonal(left: Tensor | None, right: Tensor | None, spectrum: Tensor) -> Tensor:
    """The diagonal of (U ⊗ V) diag(S) (U ⊗ V)ᵀ: U² S (V²)ᵀ with elementwise squares."""
    if left is not None:
        spectrum = left.square() @ spectrum
    if right is not None:
        spectrum = spectrum @ right.square().T
    return spectrum.reshape(-1).clone()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PerOutput(Operator):
    """One block per output unit, `[O, I, I]`; with `axis = "input"` per input, `[I, O, O]`."""

    blocks: Tensor
    axis: str = "output"
    structure: ClassVar[str] = "PerOutput"
    symmetric: ClassVar[tuple[str, ...]] = ("blocks",)
    axes: ClassVar[Mapping[str, str]] = {"blocks": "UWW"}
    rows: ClassVar[str] = "UW"

    def misfit(self) -> str:
        """Units of a layer are its outputs or its inputs."""
        return _axis_misfit(self.axis)

    def apply(self, v: Tensor) -> Tensor:
        return _batched(v, self.axis, len(self.blocks), lambda x: self.blocks @ x)

    def diagonal(self) -> Tensor:
        return _flatten(self.blocks.diagonal(dim1=-2, dim2=-1), self.axis)

    def frobenius(self) -> Tensor:
        return self.blocks.norm()

    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.blocks).reshape(-1)

    def spectral_form(self) -> Operator:
        values, vectors = symmetric_eigh(self.blocks, "a block per unit")
        return PerOutputEigen(vectors, values, self.axis)

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form().spectral(function)

    def describe(self) -> str:
        count, width, _ = self.blocks.shape
        return f"{count} blocks {width}×{width}, one per {self.axis}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PerOutputEigen(Operator):
    """One decomposed block per unit: `vectors [B, w, w]`, `values [B, w]`."""

    vectors: Tensor
    values: Tensor
    axis: str = "output"
    structure: ClassVar[str] = "PerOutputEigen"
    axes: ClassVar[Mapping[str, str]] = {"vectors": "UWW", "values": "UW"}
    rows: ClassVar[str] = "UW"

    def misfit(self) -> str:
        """Units of a layer are its outputs or its inputs."""
        return _axis_misfit(self.axis)

    def apply(self, v: Tensor) -> Tensor:
        def product(x: Tensor) -> Tensor:
            return self.vectors @ (self.values[..., None] * (self.vectors.mT @ x))

        return _batched(v, self.axis, len(self.values), product)

    def diagonal(self) -> Tensor:
        entries = (self.vectors.square() @ self.values[..., None])[..., 0]
        return _flatten(entries, self.axis)

    def eigenvalues(self) -> Tensor:
        return self.values.reshape(-1).clone()

    def spectral_form(self) -> Operator:
        return self

    def spectral(self, function: Spectral) -> Operator:
        return PerOutputEigen(self.vectors, function(self.values), self.axis)

    def describe(self) -> str:
        count, width = self.values.shape
        return f"{count} decomposed blocks {width}×{width}, one per {self.axis}"


def _axis_misfit(axis: str) -> str:
    return (
        "" if axis in ("output", "input") else f"has blocks per `{axis}`, not `output` or `input`"
    )


def _flatten(entries: Tensor, axis: str) -> Tensor:
    """`[unit, other]` to row-major over (o, i)."""
    return (entries if axis == "output" else entries.T).reshape(-1).clone()


def _batched(v: Tensor, axis: str, units: int, product: Spectral) -> Tensor:
    """Apply a product per unit to `v [O·I, k]`."""
    other = v.shape[0] // units
    if axis == "output":
        return product(v.reshape(units, other, -1)).reshape(v.shape)
    x = v.reshape(other, units, -1).transpose(0, 1)
    return product(x).transpose(0, 1).reshape(v.shape)
