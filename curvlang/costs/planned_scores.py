"""What scores will cost before anything is fitted or trained: the inverse has the form that a plan gives it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import torch

from curvlang.attribution.formulas.curvatures import models_along
from curvlang.attribution.formulas.formula_scores import is_plain, plain_formula, program_of
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import Point, Points, StretchPoints
from curvlang.attribution.indexed.kept_parts import kept_parts, of_gradients
from curvlang.attribution.streams.request import Request
from curvlang.compiler.algebra import shapes
from curvlang.compiler.derive.program import Partition, Result
from curvlang.compiler.planning.cost import Cost
from curvlang.compiler.planning.plan import BlockPlan
from curvlang.costs.formulas import BlockForm, InverseForm, identity_form, predicted_formula
from curvlang.costs.operations import Operations, operations
from curvlang.costs.predicted import StagePrediction, predicted_in_passes
from curvlang.costs.rates import Rates
from curvlang.ir.score_program import solves_of
from curvlang.language.chain import Evaluation, Inverse, ScoreFormula, Solver
from curvlang.language.sums import weighted_chains
from curvlang.models.task import Task
from curvlang.operators import Dense, Identity
from curvlang.operators.operator import unchecked
from curvlang.runtime.prepare import Preparation, prepare
from curvlang.runtime.solver import FittedSolver


@dataclass(frozen=True, slots=True)
class PlannedInverse:
    """How a curvature will be inverted.

    Args:
        inverse: The declaration; None for λ added to the matrix.
        solver: The spec's `solve` line.
        approximate: What the solver's preconditioner takes for a vector over all parameters; None where there is none.
    """

    inverse: Inverse | None = None
    solver: Solver | None = None
    approximate: Operations | None = None

    @classmethod
    def of(cls, said: Evaluation | None) -> PlannedInverse:
        """As an evaluation says."""
        if said is None:
            return cls()
        return cls(None if said.inverse is None else said.inverse.inverse, said.solver)


@dataclass(frozen=True, slots=True)
class ScoresPrediction:
    """Scores of all queries against all training examples.

    Args:
        stage: Operations, bytes and seconds.
        counted: Whether all of it could be counted; else products of a solver come on top.
        most: Products that conjugate gradients take at most for a vector, all of which are counted; 0 for other solvers.
    """

    stage: StagePrediction
    counted: bool = True
    most: int = 0


def predicted_score(
    said: Evaluation | None, prepared: Preparation, task: Task, rates: Rates | None
) -> ScoresPrediction | None:
    """What scores will take; None where the task does not say at how many models they are taken.

    Args:
        said: What the spec says of score, inverse and solver.
        prepared: Plans of the fit.
        task: Queries and training examples; its model need not be trained.
        rates: The machine's; None for costs alone.
    """
    asked, formula = PlannedInverse.of(said), said_formula(said)
    program = program_of(formula)
    if asked.inverse is not None and asked.inverse.entries is not None:
        plain = is_plain(program)
        found = predicted_in_passes(asked.inverse.entries, prepared, task, rates)
        return ScoresPrediction(found) if plain else None
    stream = _stream(formula, task)
    if stream is None:
        return None
    if asked.solver is not None and asked.solver.preconditioner is not None:
        chains = [x for _, x in weighted_chains(asked.solver.preconditioner)]
        form = planned_form(prepare(chains, task, last=True, trying=True), task, PlannedInverse())
        asked = replace(asked, approximate=form.whole)
    form = planned_form(prepared, task, asked)
    counted = form.whole is not None or not solves_of(program)
    most = most_products(asked.solver) if counted and _reads_matrix(prepared) else 0
    return ScoresPrediction(predicted_formula(stream, form, rates), counted, most)


def most_products(solver: Solver | None) -> int:
    """Products with the matrix that a solver may ask for at most for a vector, where it does not say how many it takes."""
    found = 0 if solver is None or solver.name != "cg" else solver.arguments["iterations"]
    assert isinstance(found, int)
    return found


def _reads_matrix(prepared: Preparation) -> bool:
    """Whether any block has no structure that makes its inverse cheap: solvers are for these."""
    kinds = shapes.LeafShape | shapes.GramShape | shapes.DenseShape
    found = (x for results in prepared.chains for _, _, x in _blocks(results[-1], prepared))
    return any(isinstance(x, kinds) for x in found)


def said_formula(said: Evaluation | None) -> ScoreFormula:
    """The score that an evaluation names, or plain influence."""
    return plain_formula() if said is None or said.score is None else said.score


@dataclass(frozen=True, slots=True)
class IndexPrediction:
    """What an index keeps of each training example, and what it takes to write it.

    Args:
        numbers: Of an example.
        examples: How many.
        writing: Operations and bytes of one pass that computes them.
        scoring: Those of scores of all queries against it, the queries' own gradients left out.
    """

    numbers: int
    examples: int
    writing: Cost
    scoring: Cost

    def bytes(self, kind: torch.dtype) -> int:
        """On the disk, in a precision."""
        return self.numbers * self.examples * kind.itemsize


def predicted_index(
    formula: ScoreFormula, prepared: Preparation, task: Task
) -> IndexPrediction | None:
    """An index of a curvature or a score; None where it has none.

    Args:
        formula: The score.
        prepared: Plans of the fit.
        task: Queries and training examples.
    """
    program, width = program_of(formula), _coordinates(prepared, task)
    stream = _stream(formula, task)
    if stream is None:
        return None
    if of_gradients(program, whole=width == task.P):
        numbers, projected = width, 2 * task.P * (width if width < task.P else 0)
    else:
        parts = kept_parts(program)
        if parts is None:
            return None
        lengths = {**stream.lengths(stream.turn), "n": 1}
        numbers = sum(prod(lengths.get(x.space, 1) for x in own) for own in parts.values())
        projected = 2 * task.P * numbers
    own = task.N * (2 * task.P + projected)
    kept = 8 * task.N * numbers
    return IndexPrediction(
        numbers, task.N, Cost(own, kept), Cost(2 * task.Q * task.N * numbers, kept)
    )


def _stream(formula: ScoreFormula, task: Task) -> FormulaStream | None:
    """Scores at as many models as the task states, each with the model that there is."""
    program = program_of(formula)
    one = torch.ones((), dtype=torch.float64, device=task.device)
    final = Point(task, Identity(one, task.P))
    along = models_along(task) if program.checkpoints else []
    if program.checkpoints and not along:
        return None
    models = 1 if task.trajectory is None else task.trajectory.models
    row = [StretchPoints(final, [final] * n) for n in along]
    rows = [row] * (models if program.models else 1) if row else []
    points = Points(final, rows, [final] * models if program.models else ())
    return FormulaStream(program, points, task.loss, Request())


def planned_form(prepared: Preparation, task: Task, asked: PlannedInverse) -> InverseForm:
    """The form that an inverse will have.

    Args:
        prepared: Plans of the fit.
        task: Model and data.
        asked: How it is inverted.
    """
    chains = [list(_blocks(results[-1], prepared)) for results in prepared.chains]
    if len(chains) > 1:
        # Sums of curvatures of different bases are matrices, block by block.
        rows = max(b.geometry.rows for own in chains for _, b, _ in own)
        return InverseForm(None, Operations(4.0 * rows * task.P))
    found = chains[0]
    if any(by == Partition.MODEL for by, _, _ in found):
        ((_, block, shape),) = found
        if isinstance(shape, shapes.IdentityShape):
            return identity_form(task)
        if _diagonal(shape):
            return InverseForm(tuple(map(BlockForm, task.blocks())), Operations(task.P))
        return InverseForm(None, _applied(shape, block, asked, task.P))
    layers = {(by, b.name): b for by, _, _ in found for b in prepared.blocks[by]}
    blocks: list[BlockForm] = []
    for by, block, shape in found:
        layer = layers[by, block.geometry.name]
        known = None if _diagonal(shape) else _applied(shape, block, asked, task.P)
        if known is None and not _diagonal(shape):
            return InverseForm(None, None)
        applied = None if known is None else known.times(block.count)
        rotated = isinstance(shape, shapes.KroneckerShape | shapes.EigenBasisShape)
        blocks.append(BlockForm(layer, rotated, applied))
    whole = sum((_row(x) for x in blocks), Operations())
    return InverseForm(tuple(blocks), whole)


def _blocks(
    result: Result, prepared: Preparation
) -> Iterator[tuple[Partition, BlockPlan, shapes.Shape]]:
    """Every block of a curvature, with its structure."""
    for part in result.parts:
        for block in prepared.plan_of(part).blocks:
            yield part.partition, block, _shown(block.results[part.value].shape)


def _shown(shape: shapes.Shape) -> shapes.Shape:
    """A multiple of the identity in a sum only moves the spectrum."""
    if isinstance(shape, shapes.SumShape):
        terms = [x for x in shape.terms if not isinstance(x, shapes.IdentityShape)]
        if len(terms) == 1:
            return terms[0]
    return shape


def _diagonal(shape: shapes.Shape) -> bool:
    """Whether C⁻¹ is diagonal in a Kronecker basis."""
    return isinstance(
        shape,
        shapes.IdentityShape
        | shapes.DiagonalShape
        | shapes.KroneckerShape
        | shapes.EigenBasisShape,
    )


def _row(x: BlockForm) -> Operations:
    """One row over the parameters of a block."""
    if x.applied is not None:
        return x.applied
    O, I = x.layer.d_out, x.layer.d_in
    return Operations(float(x.layer.size * (1 + (4 * (O + I) if x.rotated else 0))))


def _applied(
    shape: shapes.Shape, block: BlockPlan, asked: PlannedInverse, parameters: int
) -> Operations | None:
    """What a block of C⁻¹ takes for a gradient as it is; None where that is not known before."""
    n, sizes = block.geometry.rows, block.sizes
    match shape:
        case shapes.LeafShape() | shapes.GramShape() | shapes.DenseShape():
            return _solved(n, asked, n / parameters)
        case shapes.BlocksShape(unit=unit):
            return Operations(4.0 * n * sizes["i" if unit == "output" else "o"])
        case shapes.LowRankShape():
            return Operations(4.0 * n * _width(shape, block))
        case shapes.ProjectedShape():
            narrow, lifted = _lifted(shape, block)
            return lifted + Operations(2.0 * narrow * narrow)
        case shapes.ProductShape():
            return None
        case _:
            return Operations(4.0 * n * n)


def _solved(rows: int, asked: PlannedInverse, share: float) -> Operations | None:
    """A matrix: a Cholesky factor, or the steps of a solver; `share` is that of its rows in all parameters."""
    solver = asked.solver
    if solver is None:
        return Operations(2.0 * rows * rows)
    given, most = solver.arguments, most_products(solver)
    if given.get("batch", "all") != "all" or (solver.preconditioner and asked.approximate is None):
        return None
    matrix = torch.empty(rows, rows, dtype=torch.float64, device="meta")
    inverse = FittedSolver(solver).inverse(unchecked(Dense, {"matrix": matrix}), 1.0)
    found, steps = operations(inverse, most), most or given.get("steps", 0)
    if found is None or asked.approximate is None:
        return found
    assert isinstance(steps, int)
    return found + asked.approximate.times(steps * share)


def _lifted(shape: shapes.ProjectedShape, block: BlockPlan) -> tuple[int, Operations]:
    """Coordinates of a projection, and what it takes to go into them and out again."""
    rows, flops = block.geometry.rows, 0.0
    for basis in shape.bases:
        if basis is not None:
            wide, narrow = (block.sizes[x.space] for x in basis.indices)
            flops += 4.0 * rows * narrow
            rows = rows // wide * narrow
    return rows, Operations(flops)


def _width(shape: shapes.Shape, block: BlockPlan) -> int:
    """Coordinates outside which a block is zero."""
    match shape:
        case shapes.LowRankShape(axes=axes):
            return min(block.geometry.rows, prod(block.sizes[x.space] for x in axes))
        case shapes.ProjectedShape():
            return _lifted(shape, block)[0]
        case _:
            return block.geometry.rows


def _coordinates(prepared: Preparation, task: Task) -> int:
    """Coordinates outside which the whole curvature is zero."""
    if len(prepared.chains) > 1:
        return task.P
    found = _blocks(prepared.chains[0][-1], prepared)
    return min(task.P, sum(block.count * _width(shape, block) for _, block, shape in found))
