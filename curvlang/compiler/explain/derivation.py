"""The derivation of a block formula, stage by stage: what each stage defines and states, and its result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from curvlang.compiler.algebra import shapes
from curvlang.compiler.derive.program import Partition, Result
from curvlang.compiler.explain.mathematics import Latex, Style, Unicode, equation, mathematics
from curvlang.ir.expr import Statement, Yield

_SHOWN = 12
"""Definitions of one stage that are printed; of more, the first and the last ones."""


@dataclass(frozen=True, slots=True)
class StageDerivation:
    """One stage: the result, its structure in the first block, and the pass after which it is known.

    `beside` is the same for parameters outside any layer's weight matrix, where a model has any.
    """

    result: Result
    shape: shapes.Shape
    level: int
    beside: StageDerivation | None = None

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What the stage defines and what it yields."""
        return (*self.result.definitions, self.result.value)


def structure_name(shape: shapes.Shape) -> str:
    """The structure's noun, as the operators name it."""
    match shape:
        case shapes.IdentityShape():
            return "Identity"
        case shapes.DiagonalShape():
            return "Diagonal"
        case shapes.KroneckerShape():
            return "Kronecker"
        case shapes.EigenBasisShape():
            return "EigenBasis"
        case shapes.BlocksShape(unit=unit):
            return "PerOutput" if unit == "output" else "PerInput"
        case shapes.LowRankShape():
            return "LowRank"
        case shapes.GramShape():
            return "Gram, formed"
        case shapes.LeafShape() | shapes.DenseShape():
            return "Dense"
        case shapes.ProductShape():
            return "MatrixFree"
        case shapes.ProjectedShape(inner=inner):
            return f"Projected ({structure_name(inner)})"
        case shapes.SumShape(terms=terms):
            return " + ".join(map(structure_name, terms))
        case _:
            assert_never(shape)


def derivation(stages: Sequence[StageDerivation]) -> Iterator[str]:
    """The derivation as plain text, one numbered paragraph per stage."""
    for number, stage in enumerate(stages, 1):
        result = stage.result
        stated = "" if result.stage == result.label else f" = … |> {result.stage}"
        yield f"  {number}. {result.label}{stated}: {_scope(result.partition)}"
        if result.doc:
            yield f"       {result.doc}"
        for text in _equations(stage, Unicode()):
            yield f"         {text}"
        if any(result.value.lift):
            yield f"         lifted back by {_lift(result.value)}"
        yield f"       {structure_name(stage.shape)}: {stage.shape.reason}; {_known(stage)}"
        if stage.beside is not None:
            yield f"       parameters outside any layer's weight matrix: {_others(stage.beside)}"


def _others(stage: StageDerivation) -> str:
    name = structure_name(stage.shape)
    return f"{name} after {stage.result.stage}; {_known(stage)}"


def latex(stages: Sequence[StageDerivation]) -> Iterator[str]:
    """The derivation as LaTeX: one `align*` per stage."""
    for stage in stages:
        yield f"% {stage.result.label}: {stage.result.stage}"
        yield r"\begin{align*}"
        rows = list(_equations(stage, Latex()))
        for k, text in enumerate(rows):
            aligned = text.replace(" = ", " &= ", 1)
            yield f"  {aligned}" + (r" \\" if k + 1 < len(rows) else "")
        yield r"\end{align*}"


def _equations(stage: StageDerivation, style: Style) -> Iterator[str]:
    statements = stage.statements
    if len(statements) <= _SHOWN:
        yield from (equation(x, style) for x in statements)
        return
    head, tail = statements[: _SHOWN - 4], statements[-4:]
    yield from (equation(x, style) for x in head)
    left_out = len(statements) - len(head) - len(tail)
    yield (
        rf"\vdots = \text{{{left_out} more}}" if isinstance(style, Latex) else f"… {left_out} more"
    )
    yield from (equation(x, style) for x in tail)


def _lift(value: Yield) -> str:
    """The bases of a projection: `R[o,m], P[i,k]`."""
    return ", ".join(mathematics(basis, Unicode()) for basis in value.lift if basis is not None)


def _known(stage: StageDerivation) -> str:
    match stage.shape:
        case shapes.LeafShape():
            return "computed before the first pass"
        case shapes.ProductShape():
            return "never formed"
        case _:
            return f"known after pass {stage.level}" if stage.level else "needs no pass"


def _scope(partition: Partition) -> str:
    """What a result is of."""
    if partition == Partition.MODEL:
        return "the whole model"
    tensor = " tensor" if partition == Partition.PARAMETER else ""
    return f"a block per {partition}{tensor}"
