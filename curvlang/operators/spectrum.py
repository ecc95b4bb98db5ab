"""Functions of a spectrum, and the decomposition that gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import finite_number

Spectral = Callable[[Tensor], Tensor]
"""An elementwise function of eigenvalues."""


def tikhonov(damping: float) -> Spectral:
    """S → 1/(s + λ); refused where s + λ is zero to rounding."""
    damping = finite_number(damping, "damping")

    def function(s: Tensor) -> Tensor:
        shifted = s + damping
        scale = float(s.abs().max().clamp(min=abs(damping))) if s.numel() else 0.0
        if s.numel() and float(shifted.abs().min()) <= torch.finfo(s.dtype).eps * scale:
            raise singular(
                f"C + {damping:.3g} I is singular",
                f"an eigenvalue equals −{damping:.3g} to rounding",
            )
        return shifted.reciprocal()

    return function


def square_root(s: Tensor) -> Tensor:
    """S → √s, with 0 for what is below 0 by rounding alone.

    Raises:
        SpecError: E0922 for a negative eigenvalue.
    """
    lowest = float(s.min()) if s.numel() else 0.0
    if lowest < -s.numel() * torch.finfo(s.dtype).eps * float(s.abs().max()):
        raise refusal(
            Code.E0922,
            f"the covariance has the negative eigenvalue {lowest:.3g}: nothing can be drawn from it",
            "use a larger damping, above the size of the lowest of `op.eigenvalues()`",
            "use a curvature without negative eigenvalues: a Gauss-Newton matrix, K-FAC, EK-FAC",
        )
    return s.clamp(min=0).sqrt()


def chosen(damping: float | None, spectral: Spectral | None) -> Spectral | None:
    """The spectral function that is given; None where there is none.

    Raises:
        SpecError: E0709 for a damping beside it, which would be left out.
    """
    if spectral is not None and damping:
        raise refusal(
            Code.E0873,
            "both `damping` and `spectral` are given",
            "give one: the function takes λ in, `lambda s: 1 / (s + 0.1)`",
        )
    return spectral


def singular(headline: str, why: str, labels: Sequence[Label] = ()) -> SpecError:
    """The refusal of an inverse that rounding decides.

    Args:
        headline: Which matrix is singular.
        why: The eigenvalue that stands against it.
        labels: Where the inverse is written.
    """
    return refusal(
        Code.E0601,
        f"{headline}: {why}",
        "use a larger damping, or `pseudo`, which leaves null directions out",
        labels=labels,
    )


_NARROW: ContextVar[torch.dtype | None] = ContextVar("narrow decompositions", default=None)


@contextmanager
def decomposed_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Matrices are decomposed in a narrower precision until the block ends; results are as wide as before."""
    before = _NARROW.set(dtype)
    try:
        yield
    finally:
        _NARROW.reset(before)


def narrowed(matrix: Tensor) -> Tensor:
    """A matrix in the precision in which it is to be decomposed."""
    narrow = _NARROW.get()
    return matrix if narrow is None else matrix.to(narrow)


def symmetric_eigh(matrix: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues and contiguous eigenvectors; a failure names the matrix instead of a retry."""
    own = matrix.dtype

    def decomposed(matrix: Tensor) -> tuple[Tensor, Tensor]:
        if not bool(torch.isfinite(matrix).all()):
            raise refusal(
                Code.E0607,
                f"{what} has entries that are not finite",
                "look for a division by zero in the formula, or overflow in the data",
            )
        try:
            values, vectors = torch.linalg.eigh(narrowed(matrix))
        except RuntimeError as error:
            raise refusal(
                Code.E0607, f"the eigendecomposition of {what} failed: {error}", "use float64"
            ) from error
        return values.to(own), vectors.contiguous().to(own)

    found: tuple[Tensor, Tensor] = at_once(decomposed, matrix)
    return found


class _AtOnce(torch.autograd.Function):
    """Calls a function; under `vmap` on the whole tensor, the axis of the stack in front."""

    @staticmethod
    def forward(function: Callable[[Tensor], Any], x: Tensor) -> Any:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is differentiated."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        found = at_once(function, x.movedim(in_dims[1], 0))
        return found, (0,) * len(found) if isinstance(found, tuple) else 0


def at_once(function: Callable[[Tensor], Any], x: Tensor) -> Any:
    """The function of a tensor, or under `vmap` of a stack of them.

    Args:
        function: Gives a tensor or several. With more axes in front of its tensor it gives its
            results with the same ones in front.
        x: The tensor.
    """
    return _AtOnce.apply(function, x)


def same(x: Tensor | None, y: Tensor | None) -> bool:
    """Whether two bases are one: the same tensor, equal numbers, or both the identity (None)."""
    return x is y or (x is not None and y is not None and equal(x, y))


def equal(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same number by number, in every matrix of a stack."""
    if x.shape != y.shape:
        return False
    found = []

    def compare(both: Tensor) -> Tensor:
        found.append(torch.equal(both[..., 0], both[..., 1]))
        return both

    at_once(compare, torch.stack([x, y], -1))
    return found[0]
