"""Inverses known by iteration: what they share, what a solve reports, the lowest eigenvalue."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.operators.operator import Operator
from curvlang.operators.spectrum import Spectral

_REPAIR = "apply it to the vectors you need (`op @ v`)"


@dataclass(frozen=True, slots=True)
class SolveRecord:
    """What one solve took.

    Args:
        iterations: Of the right-hand side that took the most.
        products: Vectors multiplied by C in all; a product on a batch counts by its share.
        residual: Largest ‖v − (C + λI)x‖ / ‖v‖, from a product made at the end.
    """

    iterations: int
    products: int
    residual: float


Report = Callable[[SolveRecord], None]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and of how much; details follow a `: `."""


class NotConverged(UserWarning):
    """A solver that ended before its solution, and by how much."""


@dataclass(frozen=True, slots=True, eq=False)
class ExampleMean:
    """The training examples behind a curvature, and its value on some of them alone.

    Args:
        count: N.
        of: The curvature of the examples at some positions, `[B] -> C_batch`; None where it has no
            products.
        gradients: Gradients of the examples' own losses, [B, P] of every batch; None where the examples
            are not there.
    """

    count: int
    of: Callable[[Tensor], Operator] | None
    gradients: Callable[[], Iterator[Tensor]] | None = None


class Iterative(Operator):
    """(C + λI)⁻¹ by products with C; its entries and spectrum are not known.

    Abstract: a solver holds `operator` and `damping` and implements `solve`.
    """

    operator: Operator
    damping: float
    mixed: ClassVar[bool] = True

    @abstractmethod
    def solve(self, v: Tensor) -> Tensor:
        """An approximate solution of (C + λI) x = v for columns `v [P, k]` of size about one."""

    def apply(self, v: Tensor) -> Tensor:
        """The solution for any columns: scaled by powers of two, so that no square overflows."""
        check_finite(v)
        size = v.abs().amax(0)
        unit = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent)
        return self.solve(v / unit) * unit

    @property
    def size(self) -> int:
        return self.operator.size

    @property
    def spectrum_known(self) -> bool:
        return False

    def residual(self, x: Tensor, v: Tensor) -> Tensor:
        """What is left of v: v − (C + λI) x."""
        return v - self.operator.apply(x) - self.damping * x

    def diagonal(self) -> Tensor:
        raise refusal(Code.E0603, "an iterative inverse does not know its diagonal", _REPAIR)

    def eigenvalues(self) -> Tensor:
        raise refusal(Code.E0603, "an iterative inverse does not know its eigenvalues", _REPAIR)

    def spectral_form(self) -> Operator:
        raise refusal(Code.E0603, "an iterative inverse has no eigendecomposition", _REPAIR)

    def spectral(self, function: Spectral) -> Operator:
        return self.spectral_form()


def check_finite(values: Tensor) -> None:
    """Refuse vectors and products that are not finite: no iteration would end well."""
    if not bool(torch.isfinite(values).all()):
        raise refusal(
            Code.E0604,
            "the solver met a right-hand side or a product that is not finite",
            "look for overflow in the data and the parameters",
        )


def applied(operator: Operator | None, v: Tensor) -> Tensor:
    """`C v` in the operator's precision, returned in the vector's; v itself without an operator."""
    return v if operator is None else operator.apply(v.to(operator.dtype)).to(v.dtype)


def relative(residual: Tensor, v: Tensor) -> float:
    """Largest ‖r‖ / ‖v‖ over the columns; columns of zeros are solved by zero."""
    norms = v.norm(dim=0)
    kept = norms > 0
    return float((residual.norm(dim=0)[kept] / norms[kept]).max()) if bool(kept.any()) else 0.0


def lowest_eigenvalue(operator: Operator, start: Tensor, products: int = 100) -> float:
    """A value at or just below the lowest eigenvalue: exact with a spectrum, else by Lanczos.

    The Lanczos estimate θ is lowered by its residual, so that it errs to the safe side.

    Args:
        operator: C.
        start: `[P]`, not orthogonal to the lowest eigenvector.
        products: Steps at most.
    """
    if operator.spectrum_known:
        return float(operator.eigenvalues().min())
    basis = [start / start.norm()]
    alphas: list[float] = []
    betas: list[float] = []
    theta = 0.0
    for _ in range(min(products, operator.size)):
        w = operator @ basis[-1]
        alphas.append(float(w @ basis[-1]))
        q = torch.stack(basis, dim=1)
        # Orthogonalised against the whole basis, twice: rounding would bring copies back.
        for _ in range(2):
            w = w - q @ (q.T @ w)
        beta = float(w.norm())
        t = torch.diag(torch.tensor(alphas, dtype=torch.float64))
        if betas:
            off = torch.tensor(betas, dtype=torch.float64)
            t = t + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(t)
        gap = beta * abs(float(vectors[-1, 0]))
        theta = float(values[0]) - gap
        if gap <= 1e-3 * abs(float(values[0])) or beta <= 1e-12 * float(values.abs().max()):
            break
        betas.append(beta)
        basis.append(w / beta)
    return theta


def at_least(value: float) -> str:
    """A number of two digits above a positive value by a tenth or more, for a repair."""
    return f"{1.15 * value:.2g}"
