"""Operators known by their products alone, and their damped inverse by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.operators.operator import Operator, Spectral, refuse

_SUM = "sum the products you need instead (`op @ v`), or estimate it with `estimate_trace`"


@dataclass(frozen=True, slots=True, eq=False)
class MatrixFree(Operator):
    """A symmetric operator given by `product(v [P, k]) -> [P, k]`."""

    product: Callable[[Tensor], Tensor]
    length: int
    kind: torch.dtype
    where: torch.device
    structure: ClassVar[str] = "MatrixFree"

    @property
    def size(self) -> int:
        return self.length

    @property
    def dtype(self) -> torch.dtype:
        return self.kind

    @property
    def device(self) -> torch.device:
        return self.where

    def apply(self, v: Tensor) -> Tensor:
        return self.product(v)

    def diagonal(self) -> Tensor:
        refuse("E0603", "a matrix-free operator does not know its diagonal", _SUM)

    def eigenvalues(self) -> Tensor:
        refuse("E0603", "a matrix-free operator does not know its eigenvalues", _SUM)

    def frobenius(self) -> Tensor:
        refuse("E0603", "a matrix-free operator does not know its Frobenius norm", _SUM)

    def spectral_form(self) -> Operator:
        refuse(
            "E0603",
            "a matrix-free operator has no eigendecomposition",
            "use `tikhonov`, which runs conjugate gradients",
        )

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form()

    def inverse(self, damping: float = 0.0, *, spectral: Spectral | None = None) -> Operator:
        """(C + λI)⁻¹ by conjugate gradients; any other spectral function is refused."""
        if spectral is not None:
            return self.spectral(spectral)
        return ConjugateGradients(self, damping)

    def tensors(self) -> Iterator[Tensor]:
        return iter(())

    def describe(self) -> str:
        return f"MatrixFree {self.length}×{self.length}"


@dataclass(frozen=True, slots=True, eq=False)
class ConjugateGradients(Operator):
    """(C + λI)⁻¹ by conjugate gradients, all right-hand sides at once.

    Args:
        operator: C.
        damping: λ.
        preconditioner: An approximate inverse of C + λI; None for none.
        tolerance: Relative residual at which a right-hand side is done.
        iterations: Products with C at most.
    """

    operator: Operator
    damping: float
    preconditioner: Operator | None = None
    tolerance: float = 1e-6
    iterations: int = 1000
    structure: ClassVar[str] = "ConjugateGradients"

    @property
    def size(self) -> int:
        return self.operator.size

    @property
    def dtype(self) -> torch.dtype:
        return self.operator.dtype

    @property
    def device(self) -> torch.device:
        return self.operator.device

    def apply(self, v: Tensor) -> Tensor:
        if not bool(torch.isfinite(v).all()):
            self._not_finite()
        x = torch.zeros_like(v)
        residual = v.clone()
        goal = self.tolerance * v.norm(dim=0)
        z = self._precondition(residual)
        direction = z.clone()
        inner = (residual * z).sum(0)
        for _ in range(self.iterations):
            # Not `>`: a residual that is not a number must not pass for a small one.
            active = ~(residual.norm(dim=0) <= goal)
            if not bool(active.any()):
                return x
            image = self.operator.apply(direction) + self.damping * direction
            curvature = (direction * image).sum(0)
            if not bool(torch.isfinite(curvature[active]).all()):
                self._not_finite()
            if bool((curvature[active] <= 0).any()):
                self._negative(float((curvature / direction.square().sum(0))[active].min()))
            step = torch.where(active, inner / curvature, 0.0)
            x = x + step * direction
            residual = residual - step * image
            z = self._precondition(residual)
            following = (residual * z).sum(0)
            direction = z + torch.where(active, following / inner, 0.0) * direction
            inner = following
        size = v.norm(dim=0)
        worst = float(torch.where(size > 0, residual.norm(dim=0) / size, 0.0).max())
        if worst > self.tolerance:
            self._unfinished(worst)
        return x

    def _precondition(self, v: Tensor) -> Tensor:
        return v if self.preconditioner is None else self.preconditioner.apply(v)

    def _negative(self, quotient: float) -> None:
        """`quotient`: dᵀ(C + λI)d/dᵀd of the direction, so that C has an eigenvalue ≤ it − λ."""
        refuse(
            "E0604",
            f"conjugate gradients met negative curvature at λ = {self.damping:.3g}: "
            f"C has an eigenvalue of {quotient - self.damping:.3g} or below",
            f"use a damping above {self.damping - quotient:.3g}, or drop the residual",
        )

    def _not_finite(self) -> None:
        refuse(
            "E0604",
            "conjugate gradients met a right-hand side or a product that is not finite",
            "look for overflow in the data and the parameters",
        )

    def _unfinished(self, worst: float) -> None:
        refuse(
            "E0604",
            f"conjugate gradients stopped after {self.iterations} products at a relative residual "
            f"of {worst:.2g}, above the tolerance {self.tolerance:.2g}",
            "use a larger damping, more iterations, or a preconditioner",
        )

    def diagonal(self) -> Tensor:
        refuse("E0603", "an iterative inverse does not know its diagonal", _SUM)

    def eigenvalues(self) -> Tensor:
        refuse("E0603", "an iterative inverse does not know its eigenvalues", _SUM)

    def spectral_form(self) -> Operator:
        refuse("E0603", "an iterative inverse has no eigendecomposition", _SUM)

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form()

    def tensors(self) -> Iterator[Tensor]:
        yield from self.operator.tensors()

    def describe(self) -> str:
        return f"({self.operator.describe()} + {self.damping:.3g} I)⁻¹ by conjugate gradients"


def estimate_trace(
    operator: Operator, generator: torch.Generator, samples: int = 64
) -> tuple[float, float]:
    """Hutchinson's estimate of the trace with its standard error.

    Args:
        operator: C.
        generator: Source of the random signs.
        samples: Probe vectors, at least 2.
    """
    shape = (operator.size, samples)
    signs = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    v = (2.0 * signs - 1.0).to(operator.device, operator.dtype)
    values = (v * operator.apply(v)).sum(0)
    return float(values.mean()), float(values.std() / samples**0.5)
