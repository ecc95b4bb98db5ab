"""What an index keeps of the training examples: gradients in a curvature's coordinates, or what a score needs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from curvlang.attribution.formulas.evaluation import Evaluation
from curvlang.attribution.formulas.formula_scores import (
    InverseRequest,
    formula_points,
    program_of,
)
from curvlang.attribution.formulas.formula_stream import FormulaStream
from curvlang.attribution.formulas.points import Points
from curvlang.attribution.formulas.surroundings import ALONE, Surroundings, surroundings
from curvlang.attribution.gradients import batch_size
from curvlang.attribution.indexed.contents import GRADIENTS, key_of
from curvlang.attribution.indexed.kept_parts import (
    Indices,
    kept_parts,
    of_gradients,
    parts_program,
)
from curvlang.attribution.indexed.projections import Projection, has_coordinates, projection_of
from curvlang.attribution.streams.request import Request
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.ir import expr as ir
from curvlang.ir.score_program import EXAMPLE
from curvlang.language.chain import ScoreFormula
from curvlang.models.task import Task
from curvlang.operators import Operator
from curvlang.runtime.fitted import FittedOperator


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What is kept of the training examples, ready to be computed.

    Args:
        key: The folder.
        words: What it is, for a reader.
        parts: The axes of what is kept, by name.
        width: Numbers of an example.
        most: Examples that are computed at once.
        values: Computes some of them.
        around: Other models that the score reads.
        points: Of the score; None for gradients.
        whole: Whether gradients are kept over all parameters.
    """

    key: str
    words: str
    parts: Mapping[str, Indices]
    width: int
    most: int
    values: Callable[[range], dict[str, Tensor]]
    around: Surroundings = ALONE
    points: Points | None = None
    whole: bool = False

    @property
    def axes(self) -> dict[str, int]:
        """The axis of the examples, by name."""
        return {k: [x.space for x in indices].index(EXAMPLE) for k, indices in self.parts.items()}


def source_of(op: FittedOperator, formula: ScoreFormula, task: Task) -> Source:
    """What an index keeps for a score of a curvature.

    Args:
        op: The curvature.
        formula: The score.
        task: As the curvature sees it.

    Raises:
        SpecError: E0762 where a score needs whole gradients of training examples.
    """
    program = program_of(formula)
    found = _coordinates(op, formula, task)
    if found is not None:
        return _in_coordinates(found, op, task)
    parts = kept_parts(program)
    if parts is None:
        raise whole_gradients(formula)
    return _of_score(op, formula, task, parts)


def source_key(op: FittedOperator, formula: ScoreFormula, task: Task) -> str:
    """The folder of what an index keeps for a score of a curvature; no other model is trained for it.

    Args:
        op: The curvature.
        formula: The score.
        task: As the curvature sees it.
    """
    return key_of(formula) if _coordinates(op, formula, task) is None else GRADIENTS


def _coordinates(op: FittedOperator, formula: ScoreFormula, task: Task) -> Projection | None:
    """Those that gradients are kept in; None where something else is kept for the score."""
    found = projection_of(op.operator, task)
    if found is None or not of_gradients(program_of(formula), whole=found.whole):
        return None
    return found


def _in_coordinates(found: Projection, op: FittedOperator, task: Task) -> Source:
    index = (ir.Index(EXAMPLE), ir.Index("p"))
    words = f"gradients in the {found.size} coordinates of `{op.label or 'the curvature'}`"
    if found.whole:
        words = f"gradients over all {found.size} parameters"
    most = batch_size(task) if found.layers is None else task.N
    return Source(
        GRADIENTS,
        words,
        {"v": index},
        found.size,
        most,
        lambda within: {"v": found.rows(task, task.loss, "train", within)},
        whole=found.whole,
    )


def _of_score(
    op: FittedOperator, formula: ScoreFormula, task: Task, parts: Mapping[str, Indices]
) -> Source:
    program = program_of(formula)
    around = surroundings(formula, program, task)
    points = formula_points(formula, op, task, InverseRequest(), around)
    stream = FormulaStream(parts_program(program, parts), points, task.loss, Request())
    evaluation = stream.evaluation(0)
    lengths = {**evaluation.lengths, EXAMPLE: 1}
    width = sum(prod(lengths[x.space] for x in indices) for indices in parts.values())
    return Source(
        key_of(formula),
        f"`{formula.name}`",
        parts,
        width,
        stream.cut.size,
        _in_batches(evaluation, parts, stream.cut.size),
        around,
        points,
    )


def _in_batches(
    evaluation: Evaluation, parts: Mapping[str, Indices], most: int
) -> Callable[[range], dict[str, Tensor]]:
    """What is kept of the examples of a chunk, found for so many of them at once."""
    axes = {k: [x.space for x in indices].index(EXAMPLE) for k, indices in parts.items()}

    def values(within: range) -> dict[str, Tensor]:
        batches = [within[k : k + most] for k in range(0, len(within), most)]
        found = [evaluation.values(parts, x) for x in batches]
        return {name: torch.cat([x[name] for x in found], axis) for name, axis in axes.items()}

    return values


def check_indexed(formula: ScoreFormula, planned: Operator) -> None:
    """Refuse, before anything is fitted, a score that needs whole gradients of training examples.

    Args:
        formula: The score.
        planned: An operator of the curvature's structure.

    Raises:
        SpecError: E0762.
    """
    program = program_of(formula)
    if of_gradients(program, whole=not has_coordinates(planned)):
        return
    if kept_parts(program) is None:
        raise whole_gradients(formula)


def whole_gradients(formula: ScoreFormula) -> SpecError:
    """The refusal of an index that would hold a number for every training example and parameter."""
    return refusal(
        Code.E0762,
        f"`{formula.name}` needs more of the training examples' gradients than an index holds",
        "take a score of products of gradients and of solved gradients (`influence`, `relatif`, `trackstar`), or of "
        "projected gradients (`trak`)",
        notes=(
            "an index holds gradients at the evaluated model, in the coordinates outside which the curvature is "
            "zero, or a few numbers of each training example",
        ),
        labels=label_at(formula.span, "this score"),
    )
