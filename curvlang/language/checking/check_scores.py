"""Scores with the functions of the spectrum that they apply: checked, and as the rest reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from curvlang.diagnostics.source import Span
from curvlang.language.bodies.scores import applied_functions, score_formula
from curvlang.language.chain import ScoreFormula, Value
from curvlang.language.checking.inverses import typed
from curvlang.language.syntax import nodes as s


def formula_with(
    definition: s.ScoreDef,
    given: Mapping[str, Value],
    span: Span,
    doc: str,
    inverses: Mapping[str, s.InverseDef],
) -> ScoreFormula:
    """A score with its parameters and its functions of the spectrum.

    Args:
        definition: Without problems.
        given: Values of all its parameters.
        span: Where it is named.
        doc: One line about it.
        inverses: Declarations that it sees.
    """
    found = score_formula(definition, given, span, doc)
    applied = {
        call.function: typed(inverses[call.function]) for call in applied_functions(found.body)
    }
    return replace(found, functions=applied)
