"""The solver that a spec's `solve` line asks for, with its preconditioner fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import Source, Span
from curvlang.language.chain import InverseUse, Solver, Value
from curvlang.language.checking.check_solver import another_equation
from curvlang.operators import Arnoldi, ConjugateGradients, ExampleMean, Leading, Neumann, Operator
from curvlang.operators.iterative.iteration import Progress, Report, at_least


def _not_kept(_: torch.Tensor) -> NoReturn:
    raise AssertionError("the examples of an operator in a file are not there")


NOT_KEPT = ExampleMean(0, _not_kept)
"""In place of the training examples of an operator that was read from a file."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedSolver:
    """A solver and the operator whose damped inverse it is preconditioned with.

    Args:
        solver: The line as checked.
        preconditioner: The curvature it names, fitted on the same task; None for none.
    """

    solver: Solver
    preconditioner: Operator | None = None

    @property
    def text(self) -> str:
        """The line as it is printed."""
        return self.solver.span.text or self.solver.name

    def kept(self) -> dict[str, Any]:
        """Plain values to keep in a file beside the preconditioner."""
        return {
            "text": self.text,
            "name": self.solver.name,
            "arguments": dict(self.solver.arguments),
        }

    @classmethod
    def read(cls, kept: Mapping[str, Any], preconditioner: Operator | None) -> FittedSolver:
        """The solver that was kept."""
        text = str(kept["text"])
        span = Span(Source("<solve>", text), 0, len(text))
        return cls(Solver(kept["name"], kept["arguments"], None, span), preconditioner)

    def inverse(
        self,
        operator: Operator,
        damping: float,
        by_example: ExampleMean | None = None,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> Operator:
        """(C + λI)⁻¹ by this solver.

        Args:
            operator: C.
            damping: λ.
            by_example: Where minibatches come from.
            report: Receives the record of every solve.
            progress: Called after every step of a solve.
        """
        given = self.solver.arguments
        match self.solver.name:
            case "cg":
                approximate = self._approximate_inverse(damping)
                tolerance, iterations = _float(given["tolerance"]), _int(given["iterations"])
                return ConjugateGradients(
                    operator, damping, approximate, tolerance, iterations, report, progress
                )
            case "neumann" | "lissa":
                return self._iterated(operator, damping, by_example, report, progress)
            case "arnoldi":
                wanted = Leading(
                    _int(given["rank"]),
                    _int(given["iterations"]),
                    _float(given["tolerance"]),
                    _int(given["seed"]),
                )
                return Arnoldi(operator, damping, wanted, report, progress)
            case name:
                raise AssertionError(f"no solver `{name}`")

    def _iterated(
        self,
        operator: Operator,
        damping: float,
        by_example: ExampleMean | None,
        report: Report | None,
        progress: Progress | None,
    ) -> Operator:
        """The Neumann iteration, or the recursion that is the same with the rate 1 / scale."""
        given = self.solver.arguments
        batch = None if given["batch"] == "all" else _int(given["batch"])
        if batch is not None:
            self._check_examples(batch, operator, by_example)
        own: dict[str, Any] = {
            "by_example": by_example,
            "batch": batch,
            "seed": _int(given["seed"]),
        }
        own |= {"report": report, "progress": progress}
        if self.solver.name == "lissa":
            # The recursion starts at v where the iteration starts at 0: its first step is that start.
            steps, repeats = _int(given["depth"]) + 1, _int(given["repeats"])
            rate = 1 / _float(given["scale"])
            return Neumann(
                operator, damping, None, rate, steps, repeats=repeats, scaled=True, **own
            )
        approximate = self._approximate_inverse(damping)
        rate, steps = _float(given["lr"]), _int(given["steps"])
        return Neumann(operator, damping, approximate, rate, steps, **own)

    def _check_examples(
        self, batch: int, operator: Operator, by_example: ExampleMean | None
    ) -> None:
        if by_example is NOT_KEPT:
            raise refusal(
                Code.E0622,
                f"`batch = {batch}` draws training examples, and an operator that was read "
                "from a file has none",
                "fit the curvature again, `cv.fit(spec, task)`, or use `batch = all`",
                labels=label_at(self.solver.span, "requested here"),
            )
        if by_example is None or by_example.of is None:
            raise refusal(
                Code.E0622,
                f"`batch = {batch}` needs a curvature that is a mean over examples, and "
                f"this is {operator.describe()}",
                "use `batch = all`",
                labels=label_at(self.solver.span, "requested here"),
            )

    def refuse(self, use: InverseUse) -> NoReturn:
        """Refuse an inverse that is not a linear system."""
        raise SpecError(another_equation(self.solver.name, self.solver.span, use))

    def _approximate_inverse(self, damping: float) -> Operator | None:
        """(C̃ + λ̃I)⁻¹ of the preconditioner, which has to be positive definite."""
        found = self.preconditioner
        if found is None:
            return None
        if not found.spectrum_known:
            raise refusal(
                Code.E0621,
                "the preconditioner is known by its products alone, and its inverse is needed",
                "use a structured curvature, such as one in Kronecker factors or its diagonal",
                labels=label_at(self.solver.span, "requested here"),
            )
        given = self.solver.arguments["preconditioner_damping"]
        own = damping if given == "same" else _float(given)
        form = found.spectral_form()
        lowest = float(form.eigenvalues().min())
        if lowest + own <= torch.finfo(form.dtype).eps * abs(lowest):
            needed = at_least(max(-lowest, 1e-12))
            raise refusal(
                Code.E0621,
                f"the preconditioner is not positive definite: its lowest eigenvalue is "
                f"{lowest:.3g} and `preconditioner_damping` {own:.3g}",
                f"use `preconditioner_damping = {needed}` or more, or another curvature",
                labels=label_at(self.solver.span, "requested here"),
            )
        return form.inverse(own)


def _float(value: Value) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value
