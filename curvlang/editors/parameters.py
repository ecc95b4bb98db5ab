"""The parameters of the stage, part or line that an argument belongs to, from the table or a definition."""

from __future__ import annotations

from collections.abc import Mapping

from curvlang.editors.document import Document
from curvlang.editors.reading import LINES, Owner, Role, Word
from curvlang.language.bodies.transforms import parameter_of
from curvlang.language.bodies.values import value
from curvlang.language.registry import (
    INVERSES,
    LDS,
    NAMED,
    OTHERS,
    SOLVERS,
    STAGES,
    Entry,
    Parameter,
)
from curvlang.language.registry.kinds import Anything, Choice, Real, Truth
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

CLAUSE = Parameter(
    Choice(tuple(OTHERS)), doc="what becomes of parameters that the stage does not fit"
)
"""`others = …`, which every stage of the language takes."""


def entry_of(owner: Owner) -> Entry | None:
    """The entry of the table that an argument belongs to."""
    match owner.role:
        case Role.PART:
            return NAMED.get(owner.part, {}).get(owner.name)
        case Role.SOLVER:
            return SOLVERS.get(owner.name)
        case Role.KEYWORD:
            return LDS if owner.name in LINES else None
        case Role.STAGE:
            return STAGES.get(owner.name)
        case _:
            return None


def parameters_of(document: Document, owner: Owner) -> Mapping[str, Parameter]:
    """The parameters of a stage, a part, an inverse, a task or a line."""
    match document.definition(Word(owner.role, owner.name, 0, 0)):
        case s.TransformDef(parameters=declared):
            return {**{p.name: parameter_of(p) for p in declared}, "others": CLAUSE}
        case s.ScoreDef(parameters=declared):
            return {p.name: parameter_of(p) for p in declared}
        case s.InverseDef(parameters=declared):
            return {p.name: INVERSES.get(p.name, Parameter(Real())) for p in declared}
        case s.TaskDef(parameters=stated):
            return {a.name: _of_task(a) for a in stated}
        case _:
            entry = entry_of(owner)
            return {} if entry is None else entry.parameters


def _of_task(argument: s.Argument) -> Parameter:
    default = value(argument.value, {}, Problems())
    return Parameter(Truth() if isinstance(default, bool) else Anything(), default)
