"""(C + λI)⁻¹ by conjugate gradients: Hestenes & Stiefel 1952, with a preconditioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.operators.iterative.iteration import (
    Iterative,
    Progress,
    Report,
    SolveRecord,
    applied,
    at_least,
    check_finite,
    lowest_eigenvalue,
    relative,
)
from curvlang.operators.operator import Operator

_ROUNDING = 10
"""How far the true residual may lie above the one that the recurrence carries along."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConjugateGradients(Iterative):
    """(C + λI)⁻¹ by conjugate gradients, all right-hand sides at once.

    Args:
        operator: C.
        damping: λ.
        preconditioner: A positive definite approximation of (C + λI)⁻¹; None for none.
        tolerance: Relative residual at which a right-hand side is done.
        iterations: Products with C at most, per right-hand side.
        report: Receives the record of every solve.
        progress: Called after every iteration, with the largest relative residual.
    """

    operator: Operator
    damping: float
    preconditioner: Operator | None = None
    tolerance: float = 1e-6
    iterations: int = 1000
    report: Report | None = None
    progress: Progress | None = None
    structure: ClassVar[str] = "ConjugateGradients"

    def solve(self, v: Tensor) -> Tensor:
        x, residual = torch.zeros_like(v), v.clone()
        goal = self.tolerance * v.norm(dim=0)
        direction = self._precondition(residual).clone()
        inner = (residual * direction).sum(0)
        products = 0
        for done in range(self.iterations + 1):
            # Not `>`: a residual that is not a number must not pass for a small one.
            (open_,) = (~(residual.norm(dim=0) <= goal)).nonzero(as_tuple=True)
            if not len(open_):
                self._finish(x, v, done, products)
                return x
            if self.progress is not None:
                how = f"cg: {len(open_)} open, residual {relative(residual, v):.1e}"
                self.progress(how, done, self.iterations)
            if done == self.iterations:
                break
            d = direction[:, open_]
            image = self.operator.apply(d) + self.damping * d
            products += len(open_)
            curvature = (d * image).sum(0)
            check_finite(curvature)
            if not bool((curvature > 0).all()):
                self._negative(d[:, int(curvature.argmin())])
            step = inner[open_] / curvature
            x[:, open_] += step * d
            residual[:, open_] -= step * image
            rest = residual[:, open_]
            z = self._precondition(rest)
            following = (rest * z).sum(0)
            direction[:, open_] = z + following / inner[open_] * d
            inner[open_] = following
        self._unfinished(relative(residual, v))

    def _precondition(self, v: Tensor) -> Tensor:
        return applied(self.preconditioner, v)

    def _finish(self, x: Tensor, v: Tensor, iterations: int, products: int) -> None:
        """Measure the residual once more: rounding separates it from the one carried along."""
        found = relative(self.residual(x, v), v)
        if found > _ROUNDING * self.tolerance:
            raise refusal(
                Code.E0604,
                f"conjugate gradients ended at a relative residual of {found:.2g}: rounding does "
                f"not allow the tolerance {self.tolerance:.2g}",
                "use float64, a larger damping, or a larger tolerance",
            )
        if self.report is not None:
            self.report(SolveRecord(iterations, products + v.shape[1], found))

    def _negative(self, direction: Tensor) -> NoReturn:
        lowest = lowest_eigenvalue(self.operator, direction)
        raise refusal(
            Code.E0604,
            f"conjugate gradients met negative curvature at λ = {self.damping:.3g}: the lowest "
            f"eigenvalue is about {lowest:.3g}",
            f"use a damping of {at_least(-lowest)} or more, or drop the residual",
        )

    def _unfinished(self, worst: float) -> NoReturn:
        raise refusal(
            Code.E0604,
            f"conjugate gradients stopped after {self.iterations} products at a relative residual "
            f"of {worst:.2g}, above the tolerance {self.tolerance:.2g}",
            "use a larger damping, more iterations, or a preconditioner: "
            "`solve cg(preconditioner = …, iterations = …)`",
        )

    def describe(self) -> str:
        return f"({self.operator.describe()} + {self.damping:.3g} I)⁻¹ by conjugate gradients"
