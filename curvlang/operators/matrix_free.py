"""Operators known by their products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.operators.operator import Operator
from curvlang.operators.spectrum import Spectral, chosen

_SUM = "sum the products you need instead (`op @ v`), or estimate it with `estimate_trace`"


@dataclass(frozen=True, slots=True, eq=False)
class JointProduct:
    """All blocks of a matrix multiplied in one pass: `product(v [P, k]) -> [P, k]` for whole vectors."""

    product: Callable[[Tensor], Tensor]
    length: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class BlockOfJoint:
    """One block of those that are multiplied together, and its places in the whole vector."""

    joint: JointProduct
    places: Tensor


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MatrixFree(Operator):
    """A symmetric operator given by `product(v [P, k]) -> [P, k]`.

    `block` says how its product is formed where other blocks of the same matrix are multiplied too, `text`
    what it is, where that is more than a size.
    """

    product: Callable[[Tensor], Tensor]
    length: int
    kind: torch.dtype
    where: torch.device
    block: BlockOfJoint | None = None
    text: str = ""
    structure: ClassVar[str] = "MatrixFree"

    @property
    def size(self) -> int:
        return self.length

    @property
    def spectrum_known(self) -> bool:
        return False

    @property
    def dtype(self) -> torch.dtype:
        return self.kind

    @property
    def device(self) -> torch.device:
        return self.where

    def apply(self, v: Tensor) -> Tensor:
        return self.product(v)

    def diagonal(self) -> Tensor:
        raise refusal(Code.E0603, "a matrix-free operator does not know its diagonal", _SUM)

    def eigenvalues(self) -> Tensor:
        raise refusal(Code.E0603, "a matrix-free operator does not know its eigenvalues", _SUM)

    def frobenius(self) -> Tensor:
        raise refusal(Code.E0603, "a matrix-free operator does not know its Frobenius norm", _SUM)

    def spectral_form(self) -> Operator:
        raise refusal(
            Code.E0603,
            "a matrix-free operator has no eigendecomposition",
            "use `tikhonov`, which runs conjugate gradients",
        )

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form()

    def inverse(self, damping: float = 0.0, *, spectral: Spectral | None = None) -> Operator:
        """(C + λI)⁻¹ by conjugate gradients; any other spectral function is refused."""
        from curvlang.operators.iterative.conjugate_gradients import ConjugateGradients

        function = chosen(damping, spectral)
        if function is not None:
            return self.spectral(function)
        return ConjugateGradients(self, damping)

    def describe(self) -> str:
        return self.text or f"MatrixFree {self.length}×{self.length}"


def of_one_precision(parts: Sequence[Operator]) -> tuple[Operator, ...]:
    """Parts known by their products alone in the precision of the parts that are formed beside them.

    Products are computed in the precision that they have; vectors are converted on the way in and out.
    """
    formed = {x.dtype for x in parts if not isinstance(x, MatrixFree)}
    if len(formed) != 1:
        return tuple(parts)
    (wanted,) = formed
    return tuple(_converted(x, wanted) if isinstance(x, MatrixFree) else x for x in parts)


def _converted(part: MatrixFree, dtype: torch.dtype) -> MatrixFree:
    if part.kind == dtype:
        return part

    def product(v: Tensor) -> Tensor:
        return part.product(v.to(part.kind)).to(v.dtype)

    return replace(part, product=product, kind=dtype)


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
