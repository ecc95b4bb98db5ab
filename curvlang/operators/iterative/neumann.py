"""(C + λI)⁻¹ by the preconditioned Neumann iteration: Wang et al. 2025 (arXiv:2507.14740)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.operators.iterative.iteration import (
    ExampleMean,
    Iterative,
    NotConverged,
    Progress,
    Report,
    SolveRecord,
    applied,
    at_least,
    lowest_eigenvalue,
    relative,
)
from curvlang.operators.operator import Operator

UNCONVERGED = 1e-2
"""Relative residual above which a solution is too inaccurate, which a warning says."""
_FLOOR = 1e3
"""Residuals below this multiple of rounding may grow: they are rounding."""
_GROWTH = 1e8
"""Growth of a minibatch iteration beyond its noise."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Neumann(Iterative):
    """X ← x + α P (v − (C + λI) x) from x = 0, a fixed number of times.

    It is linear in v. With α = 1 its first step is P v; with α P (C + λI) between 0 and 2 it
    tends to (C + λI)⁻¹ v, and stopping after T steps leaves the eigendirections with eigenvalue
    μ of α P (C + λI) at 1 − (1 − μ)^T of their solution: small ones hardly move, as under damping.

    Args:
        operator: C.
        damping: λ.
        preconditioner: P, a positive definite approximation of (C + λI)⁻¹; None for the identity.
        lr: α.
        steps: T.
        by_example: Where minibatches come from; needed with a batch.
        batch: Examples per step, all where None.
        seed: Of the order in which examples are drawn, the same in every solve.
        report: Receives the record of every solve.
        progress: Called after every step, with the largest relative residual.
        repeats: Runs with seeds of their own, of which the mean is taken.
        scaled: Whether the rate was given as 1 / `scale`.
    """

    operator: Operator
    damping: float
    preconditioner: Operator | None = None
    lr: float = 1.0
    steps: int = 100
    by_example: ExampleMean | None = None
    batch: int | None = None
    seed: int = 0
    report: Report | None = None
    progress: Progress | None = None
    repeats: int = 1
    scaled: bool = False
    structure: ClassVar[str] = "Neumann"

    def solve(self, v: Tensor) -> Tensor:
        runs = [replace(self, seed=self.seed + k, repeats=1) for k in range(self.repeats)]
        if len(runs) == 1:
            return self._run(v)
        return torch.stack([run._run(v) for run in runs]).mean(0)

    def _run(self, v: Tensor) -> Tensor:
        x = self.lr * self._precondition(v)
        start = (v * x).sum(0) / self.lr
        before = start
        share = 0.0
        for step, operator in enumerate(self._operators(), 2):
            residual = v - applied(operator, x) - self.damping * x
            share += 1.0 if self.batch is None or self.by_example is None else self._share
            move = self._precondition(residual)
            energy = (residual * move).sum(0)
            self._check(energy, before, start, step, residual)
            before = energy
            x = x + self.lr * move
            if self.progress is not None:
                self.progress(
                    f"{'lissa' if self.scaled else 'neumann'}: residual {relative(residual, v):.1e}",
                    step,
                    self.steps,
                )
        last = self.residual(x, v)
        if self.steps > 1:
            self._check_end(last, before, start)
        found = relative(last, v)
        if found > UNCONVERGED:
            self._warn(found)
        if self.report is not None:
            products = round((share + 1.0) * v.shape[1])
            self.report(SolveRecord(self.steps, products, found))
        return x

    def _warn(self, residual: float) -> None:
        """Say that the steps were too few for the inverse that was asked for."""
        more = "a larger `depth`" if self.scaled else "more `steps`"
        better = "" if self.scaled or self.preconditioner is not None else ", a preconditioner"
        warnings.warn(
            f"{self._name} has not converged: after {self.steps - self.scaled} steps at λ = "
            f"{self.damping:.3g} the residual is {residual:.2g} of the right-hand side; use {more}"
            f"{better}, a larger damping, or `solve cg`",
            NotConverged,
            stacklevel=2,
        )

    @property
    def _name(self) -> str:
        return "the recursion of LiSSA" if self.scaled else "the Neumann iteration"

    @property
    def _share(self) -> float:
        assert self.batch is not None
        assert self.by_example is not None
        return min(1.0, self.batch / self.by_example.count)

    def _operators(self) -> Iterator[Operator]:
        """C at every step after the first, or C of a minibatch; every epoch draws a new order."""
        if self.batch is None:
            yield from (self.operator for _ in range(self.steps - 1))
            return
        assert self.by_example is not None
        generator = torch.Generator().manual_seed(self.seed)
        count, left = self.by_example.count, torch.empty(0, dtype=torch.long)
        size = min(self.batch, count)
        for _ in range(self.steps - 1):
            if len(left) < size:
                left = torch.randperm(count, generator=generator)
            chosen, left = left[:size], left[size:]
            assert self.by_example.of is not None
            yield self.by_example.of(chosen)

    def _precondition(self, v: Tensor) -> Tensor:
        return applied(self.preconditioner, v)

    def _check(
        self, energy: Tensor, before: Tensor, start: Tensor, step: int, residual: Tensor
    ) -> None:
        """RᵀP r never grows where all |1 − α μ| ≤ 1, since I − α P (C + λI) is symmetric in P⁻¹."""
        if self.batch is None:
            floor = (_FLOOR * torch.finfo(energy.dtype).eps) ** 2 * start
            wrong = ~(energy <= before * (1 + 1e-6)) & ~(energy <= floor)
        else:
            wrong = ~(energy <= _GROWTH * start)
        if bool(wrong.any()):
            self._diverges(step, residual[:, int(wrong.nonzero()[0, 0])])

    def _check_end(self, last: Tensor, before: Tensor, start: Tensor) -> None:
        """The last step, by the residual of the whole data; minibatches must have got nearer."""
        energy = (last * self._precondition(last)).sum(0)
        if self.batch is None:
            self._check(energy, before, start, self.steps, last)
        elif not bool((energy <= start).all()):
            raise refusal(
                Code.E0620,
                f"{self.steps} steps on minibatches of {self.batch} ended further from the "
                "solution than they began",
                f"use a {'larger `scale`' if self.scaled else 'smaller `lr`'}, a larger `batch`, or a "
                "larger damping",
            )

    def _diverges(self, step: int, residual: Tensor) -> NoReturn:
        """Refuse, with a rate that converges where there is one."""
        finite = bool(torch.isfinite(residual).all())
        start = residual if finite else torch.ones_like(residual)
        lowest = lowest_eigenvalue(self.operator, start)
        if lowest + self.damping <= 0:
            repair = (
                f"the lowest eigenvalue of C is about {lowest:.3g}: use a damping of "
                f"{at_least(-lowest)} or more, or drop the residual"
            )
        else:
            rate = 1.8 / self._largest(start)
            repair = (
                f"use `scale = {at_least(1 / rate)}` or more"
                if self.scaled
                else f"use `lr = {rate:.2g}` or less, or a larger `preconditioner_damping`"
            )
        raise refusal(
            Code.E0620, f"{self._name} diverges: its residual grew at step {step}", repair
        )

    def _largest(self, start: Tensor) -> float:
        """The largest Rayleigh quotient of P (C + λI) met by 30 power iterations."""
        r, high = start[:, None], 0.0
        for _ in range(30):
            r = r / r.norm()
            z = self._precondition(r)
            image = self.operator.apply(z) + self.damping * z
            high = max(high, float((z * image).sum() / (z * r).sum()))
            r = image
        return high

    def describe(self) -> str:
        return (
            f"({self.operator.describe()} + {self.damping:.3g} I)⁻¹ by {self.steps} Neumann steps"
        )
