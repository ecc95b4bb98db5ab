"""(C + λI)⁻¹ on the leading eigenvectors of C, by products alone: Schioppa et al. 2022 (arXiv:2112.03052)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from curvlang.diagnostics.notebook import Display, text_table
from curvlang.operators.iterative.iteration import (
    Iterative,
    NotConverged,
    Progress,
    Report,
    SolveRecord,
    check_finite,
)
from curvlang.operators.operator import Operator
from curvlang.operators.spectrum import singular

CHECKED_EVERY = 10
"""Steps between looks at the eigenpairs that are known so far."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LeadingPairs(Display):
    """Eigenvalues of the largest size with their eigenvectors.

    Args:
        values: [K].
        vectors: [P, K], orthonormal.
        steps: Products with C that it took.
        residual: Largest ‖C u − s u‖ over the pairs, relative to the largest |s|.
    """

    values: Tensor
    vectors: Tensor
    steps: int
    residual: float

    def _summary(self) -> str:
        P, K = self.vectors.shape
        ends = f" from {self.values[0]:.3g} to {self.values[-1]:.3g}" if K else ""
        return f"{K} of {P}{ends}, {self.steps} products, residual {self.residual:.1e}"

    def __str__(self) -> str:
        values = [f"{value:.6g}" for value in self.values.tolist()]
        numbered = [(str(k), value) for k, value in enumerate(values, 1)]
        return f"{self._summary()}\n\n{text_table(('', 'eigenvalue'), numbered, right=(0, 1))}"


@dataclass(frozen=True, slots=True)
class Leading:
    """Which eigenpairs are looked for, and how long.

    Args:
        rank: K, how many.
        iterations: Products with C at most.
        tolerance: Relative residual at which a pair counts as found.
        seed: Of the first vector.
    """

    rank: int
    iterations: int = 200
    tolerance: float = 1e-6
    seed: int = 0


def leading_eigenpairs(
    operator: Operator, wanted: Leading, progress: Progress | None = None
) -> LeadingPairs:
    """Eigenpairs of the largest size, by the Arnoldi iteration, which for symmetric C is Lanczos's.

    The basis is orthogonalised against all of itself, twice. Where the iteration has found an invariant
    space it goes on with another random vector, so that eigenvalues come as often as they are there.

    Args:
        operator: C.
        wanted: Which.
        progress: Called after every step.
    """
    P = operator.size
    most, rank = min(wanted.iterations, P), min(wanted.rank, P)
    generator = torch.Generator().manual_seed(wanted.seed)
    basis = torch.empty(P, most + 1, dtype=operator.dtype, device=operator.device)
    small = torch.zeros(most + 1, most + 1, dtype=torch.float64)
    basis[:, 0] = _random(basis, 0, generator)
    values, vectors, errors, step = small[0, :0], small[:0, :0], small[0, :0], 0
    for step in range(1, most + 1):
        known = basis[:, :step]
        w = operator.apply(known[:, -1:].contiguous())[:, 0]
        check_finite(w)
        small[step - 1, step - 1] = float(w @ known[:, -1])
        for _ in range(2):
            w = w - known @ (known.T @ w)
        beta, scale = float(w.norm()), float(small.abs().max())
        fresh = beta <= 100 * torch.finfo(w.dtype).eps * scale
        if step < P:
            basis[:, step] = _random(basis, step, generator) if fresh else w / beta
        small[step, step - 1] = small[step - 1, step] = 0.0 if fresh else beta
        if step >= rank and (step % CHECKED_EVERY == 0 or step == most):
            values, vectors = torch.linalg.eigh(small[:step, :step])
            chosen = values.abs().sort(descending=True).indices[:rank]
            values, vectors = values[chosen], vectors[:, chosen]
            errors = (0.0 if fresh else beta) * vectors[-1].abs()
            left = float(errors.max()) / max(float(values.abs().max()), 1e-300)
            if progress is not None:
                progress(f"arnoldi: residual {left:.1e}", step, most)
            # A new start may still find what an invariant space has left out.
            if left <= wanted.tolerance and not fresh:
                break
    largest = max(float(values.abs().max()), 1e-300)
    moved = basis[:, :step] @ vectors.to(basis)
    return LeadingPairs(values.to(basis), moved, step, float(errors.max()) / largest)


def _random(basis: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A random unit vector orthogonal to the first columns of a basis."""
    w = torch.randn(len(basis), generator=generator, dtype=torch.float64).to(basis)
    for _ in range(2):
        w = w - basis[:, :count] @ (basis[:, :count].T @ w)
    return w / w.norm()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Arnoldi(Iterative):
    """`Σ_k u_k u_kᵀ / (s_k + λ)` over the K leading eigenpairs of C, and zero elsewhere.

    The pairs are found when they are first needed.

    Args:
        operator: C.
        damping: λ.
        wanted: Which eigenpairs.
        report: Receives the record of the iteration; its residual is that of the pairs.
        progress: Called after every step.
    """

    operator: Operator
    damping: float
    wanted: Leading
    report: Report | None = None
    progress: Progress | None = None
    found: list[LeadingPairs] = field(default_factory=list)
    structure: ClassVar[str] = "Arnoldi"

    def pairs(self) -> LeadingPairs:
        """The eigenpairs; a warning where they have not converged."""
        if not self.found:
            made = leading_eigenpairs(self.operator, self.wanted, self.progress)
            self.found.append(made)
            if made.residual > self.wanted.tolerance:
                warnings.warn(
                    f"the Arnoldi iteration has not converged: after {made.steps} products the residual of "
                    f"{len(made.values)} eigenpairs is {made.residual:.2g} of the largest eigenvalue; use "
                    "more `iterations`, a smaller `rank`, or a larger `tolerance`",
                    NotConverged,
                    stacklevel=2,
                )
            if self.report is not None:
                self.report(SolveRecord(made.steps, made.steps, made.residual))
        return self.found[0]

    def solve(self, v: Tensor) -> Tensor:
        pairs = self.pairs()
        shifted = pairs.values + self.damping
        floor = torch.finfo(shifted.dtype).eps * float(pairs.values.abs().max())
        if bool((shifted.abs() <= floor).any()):
            raise singular(
                "C + λI is singular on the leading eigenvectors",
                "a leading eigenvalue is −λ to rounding: use another `damping`, or a smaller `rank`",
            )
        return pairs.vectors @ ((pairs.vectors.T @ v) / shifted[:, None])

    def describe(self) -> str:
        return (
            f"({self.operator.describe()} + {self.damping:.3g} I)⁻¹ on its {self.wanted.rank} leading "
            "eigenvectors"
        )
