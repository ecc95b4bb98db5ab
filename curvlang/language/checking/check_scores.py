"""Scores, checked: with the functions of the spectrum that they apply, and as baselines of a study with what they solve with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.source import Span
from curvlang.ir.score_lowering import score_program
from curvlang.ir.score_program import reads_curvature, solves_of
from curvlang.language.bodies.scores import (
    applied_functions,
    check_score,
    of_queries,
    score_entry,
    score_formula,
)
from curvlang.language.chain import InverseUse, Part, ScoreFormula, Value
from curvlang.language.checking.arguments import arguments
from curvlang.language.checking.chains import Chains
from curvlang.language.checking.inverses import check_use, typed
from curvlang.language.checking.names import Names
from curvlang.language.registry import BASELINES
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.docs import doc_of
from curvlang.language.syntax.problems import Collector


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


@dataclass(frozen=True, slots=True)
class BaselineChecker:
    """Checks the line `baselines` of a study.

    Args:
        names: What the file sees.
        chains: Types curvatures.
        problems: Collects diagnostics.
    """

    names: Names
    chains: Chains
    problems: Collector

    def all(self, uses: Sequence[s.BaselineUse]) -> tuple[Part, ...]:
        """Baselines with their arguments, each once."""
        found: dict[str, Part] = {}
        for use in uses:
            part = self._one(use)
            if part is None:
                continue
            if part.name in found:
                twice(use.use, self.problems)
            found[part.name] = part
        return tuple(found.values())

    def _one(self, written: s.BaselineUse) -> Part | None:
        use = written.use
        entry = BASELINES.get(use.name)
        if entry is None and use.name not in self.names.scores:
            known = (*BASELINES, *self.names.scores)
            self.problems.unknown(Code.E0920, "baseline", use.name, use.name_span, known)
            return None
        if entry is None:
            return self._score(written, self.names.scores[use.name])
        if written.curvature is not None or written.inverse is not None:
            self._without_curvature(written)
        return Part(use.name, arguments(use, entry, {}, self.problems), use.span)

    def _score(self, written: s.BaselineUse, definition: s.ScoreDef) -> Part | None:
        """A score, with its curvature where that has a part in it."""
        use, before = written.use, self.problems.errors
        if any(x.name == "curvature" for x in use.arguments) and not definition.parameters:
            self._curvature_as_argument(use)
            return None
        values = arguments(use, score_entry(definition), {}, self.problems)
        if self.problems.errors > before or check_score(definition, self.names.inverses):
            return None
        formula = formula_with(
            definition, values, use.span, doc_of(definition), self.names.inverses
        )
        if not of_queries(formula):
            self.problems.say(
                Code.E0245,
                f"`{use.name}` scores training examples alone, and a baseline scores queries",
                use.span,
                "yield a number for every query: `yield s[q,n] = …`",
            )
            return None
        program = score_program(formula.needs, formula.body)
        if not reads_curvature(program):
            if written.curvature is not None or written.inverse is not None:
                self._without_curvature(written)
            return Part(use.name, values, use.span, None, formula)
        if written.curvature is None:
            self.problems.say(
                Code.E0245,
                f"`{use.name}` solves with a curvature, and the line names none",
                use.span,
                f"name it: `{use.name} of ggn`",
            )
            return None
        curvature = self.chains.named(written.curvature)
        inverse = self._own_inverse(written, solved=solves_of(program))
        name = f"{use.name} of {written.curvature.text}"
        if written.inverse is not None:
            name += f" with {' '.join(written.inverse.span.text.split())}"
        return Part(name, values, written.span, curvature, formula, inverse)

    def _curvature_as_argument(self, use: s.Use) -> None:
        (argument, *_) = (x for x in use.arguments if x.name == "curvature")
        named = argument.value.span.text
        self.problems.say(
            Code.E0703,
            f"`{use.name}` has no parameter `curvature`",
            argument.span,
            f"name the curvature after `of`: `{use.name} of {named}`; what a score reads of the training "
            "is stated by the task's `checkpoints`",
        )

    def _own_inverse(self, written: s.BaselineUse, *, solved: bool) -> InverseUse | None:
        """The inverse that a baseline states for itself."""
        if written.inverse is None:
            return None
        found = check_use(written.inverse, self.names.inverses, self.problems)
        if not solved:
            self.problems.say(
                Code.E0245,
                f"`{written.use.name}` applies functions of its own, and no inverse",
                written.inverse.span,
                "leave `with` out",
            )
        elif found is not None and found.damping_open:
            self.problems.say(
                Code.E0245,
                f"`with {written.inverse.name}` leaves its damping open, and a baseline has a λ of its own "
                "or the study's",
                written.inverse.span,
                f"write `with {written.inverse.name}(damping = 1e-2)`, or leave `with` out: the scores are "
                "then taken under every inverse of the study",
            )
        return found

    def _without_curvature(self, written: s.BaselineUse) -> None:
        place = written.curvature if written.curvature is not None else written.inverse
        assert place is not None
        self.problems.say(
            Code.E0245,
            f"no curvature has a part in `{written.use.name}`",
            place.span,
            f"write `{written.use.name}` alone",
        )


def twice(use: s.Use, problems: Collector) -> None:
    """Report a baseline or a measure that stands twice in its line."""
    problems.say(Code.E0920, f"`{use.name}` stands twice", use.span, "leave one out")
