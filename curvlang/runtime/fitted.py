"""A fitted curvature: a structured operator that knows its parameters and its spec's inverse."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from curvlang.diagnostics.notebook import html_table
from curvlang.language import default_inverse, inverse_kept, inverse_read
from curvlang.language.chain import InverseUse
from curvlang.models.modes import settled
from curvlang.operators import BlockDiagonal, ByExample, Operator, Spectral, load_operator, save
from curvlang.operators.iterative import Progress, Report
from curvlang.runtime.inverse import invert
from curvlang.runtime.solver import FittedSolver


class FittedOperator:
    """A curvature on all covered parameters, in the order of `model.named_parameters()`.

    Args:
        operator: The structure.
        parameters: Names of the parameters that make up the vector, in order.
        rule: The inverse that the spec names; None for the default (`tikhonov`, λ to be given).
        label: The curvature's name.
        solver: The spec's `solve` line; None for closed forms where there are any.
        by_example: The curvature on some training examples alone, for minibatches of a solver.
        declared: The inverses that its spec declares, as text: they are known by name when another
            inverse is asked for.
    """

    def __init__(
        self,
        operator: Operator,
        parameters: tuple[str, ...],
        rule: InverseUse | None = None,
        label: str = "",
        solver: FittedSolver | None = None,
        by_example: ByExample | None = None,
        declared: str = "",
    ) -> None:
        self.operator = operator
        self.parameters = parameters
        self.rule = rule
        self.label = label
        self.solver = solver
        self.by_example = by_example
        self.declared = declared

    @property
    def shape(self) -> tuple[int, int]:
        """`(P, P)`."""
        return self.operator.shape

    @property
    def structure(self) -> str:
        """The structure's noun."""
        return self.operator.structure

    @cached_property
    def blocks(self) -> Mapping[str, Operator]:
        """Block name to operator; one block called `model` where the curvature has no blocks."""
        if isinstance(self.operator, BlockDiagonal):
            pairs = zip(self.operator.names, self.operator.blocks, strict=True)
            return MappingProxyType(dict(pairs))
        return MappingProxyType({"model": self.operator})

    @settled
    def __matmul__(self, v: Tensor) -> Tensor:
        """`C v` for `v` of shape `[P]` or `[P, k]`."""
        return self.operator @ v

    @settled
    def dense(self) -> Tensor:
        """All entries, `[P, P]`."""
        return self.operator.dense()

    @settled
    def trace(self) -> Tensor:
        """Tr C."""
        return self.operator.trace()

    @settled
    def diagonal(self) -> Tensor:
        """Diagonal entries, `[P]`."""
        return self.operator.diagonal()

    @settled
    def eigenvalues(self) -> Tensor:
        """All eigenvalues, `[P]`, in no particular order."""
        return self.operator.eigenvalues()

    @settled
    def frobenius(self) -> Tensor:
        """‖C‖_F."""
        return self.operator.frobenius()

    @settled
    def logdet(self, damping: float = 0.0) -> Tensor:
        """Log det(C + λI)."""
        return self.operator.logdet(damping)

    @settled
    def distance(self, other: FittedOperator | Operator) -> Tensor:
        """‖C − D‖_F."""
        return self.operator.distance(
            other.operator if isinstance(other, FittedOperator) else other
        )

    @settled
    def inverse(
        self,
        damping: float | None = None,
        *,
        spectral: Spectral | None = None,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> FittedOperator:
        """Another operator: (C + λI)⁻¹ for a damping λ, `f(C)` for a spectral function.

        Without either, the inverse that the spec names; without one there, `tikhonov` with its
        default, λ = 0.1 × the mean eigenvalue. A solver that the spec names is used for matrices
        without structure.

        Args:
            damping: λ, added to the matrix exactly.
            spectral: An elementwise function of the eigenvalues.
            report: Told what every solve took, where products are solved with.
            progress: Told how a solve goes.
        """
        if spectral is not None:
            found = self.operator.inverse(spectral=spectral)
        else:
            rule = self.rule or default_inverse()
            rule = rule if damping is None else default_inverse(damping)
            found = invert(
                self.operator,
                rule,
                self.solver,
                by_example=self.by_example,
                report=report,
                progress=progress,
            )
        return FittedOperator(found, self.parameters, None, self.label)

    def memory(self) -> int:
        """Bytes of the tensors held."""
        return self.operator.memory()

    def to_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` with the same action."""
        return self.operator.to_scipy()

    def save(self, path: str | Path) -> None:
        """Write the operator to a safetensors file, all or nothing.

        Its inverse, its solver with the preconditioner, the parameters' names and its label are kept
        with it. A solver on minibatches needs the training examples, which a file does not hold.
        """
        notes: dict[str, Any] = {"parameters": list(self.parameters), "label": self.label}
        others: dict[str, Operator] = {}
        if self.rule is not None:
            notes["inverse"] = inverse_kept(self.rule)
        notes["declared"] = self.declared
        if self.solver is not None:
            notes["solver"] = self.solver.kept()
            if self.solver.preconditioner is not None:
                others["preconditioner"] = self.solver.preconditioner
        save(self.operator, path, notes, others)

    def __repr__(self) -> str:
        """The operator as mathematics."""
        return f"<{self.label or 'curvature'}: {self.operator.describe()}>"

    def _repr_html_(self) -> str:
        rows = [
            (name, str(block.size), block.describe(), str(block.memory()))
            for name, block in self.blocks.items()
        ]
        title = f"{self.label or 'curvature'}: {self.structure}, P = {self.shape[0]}"
        right = (False, True, False, True)
        return html_table(("block", "size", "structure", "bytes"), rows, title=title, right=right)


def load_fitted(path: str | Path) -> FittedOperator:
    """Read what `FittedOperator.save` wrote."""
    operator, notes, others = load_operator(path)
    rule, solver = notes.get("inverse"), notes.get("solver")
    return FittedOperator(
        operator,
        tuple(notes["parameters"]),
        None if rule is None else inverse_read(rule, str(path)),
        notes["label"],
        None if solver is None else FittedSolver.read(solver, others.get("preconditioner")),
        declared=notes["declared"],
    )
