"""What a law writes around a curvature, checked: measures, scores, inverses and solvers, with their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from curvlang.diagnostics.codes import Code
from curvlang.ir.score_program import in_segments
from curvlang.language.bodies.scores import (
    check_score,
    of_queries,
    score_entry,
)
from curvlang.language.bodies.transforms import written
from curvlang.language.chain import Curvature, Quantity, Solver
from curvlang.language.checking.arguments import arguments
from curvlang.language.checking.check_scores import formula_with
from curvlang.language.checking.inverses import check_use
from curvlang.language.law import MEASURES, builtin
from curvlang.language.registry import NONE, SOLVERS
from curvlang.language.registry.entry import Entry
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems


@dataclass(frozen=True, slots=True)
class Measures:
    """Makes the quantities of laws.

    Args:
        scores: The scores there are.
        inverses: The inverses there are.
        named: The curvature of a word; reports one that is not known.
        problems: Collects diagnostics.
    """

    scores: Mapping[str, s.ScoreDef]
    inverses: Mapping[str, s.InverseDef]
    named: Callable[[s.Word], Quantity | None]
    problems: Problems

    def quantity(self, measured: s.Measurement, found: Quantity | None) -> Quantity | None:
        """A curvature with what stands around it; None where something is wrong.

        Args:
            measured: As written.
            found: The curvature; None where it is wrong.
        """
        measure = measured.measure
        if measure is None or found is None:
            return found
        name = measure.text
        found = replace(found, measure=name)
        if name in MEASURES:
            return self._plain(measured, found)
        if name in self.scores:
            return self._scored(measured.use, found)
        if name in self.inverses:
            use = check_use(measured.use, self.inverses, self.problems)
            return None if use is None else replace(found, inverse=use)
        if name in SOLVERS:
            return self._solved(measured.use, found)
        known = (*MEASURES, *self.inverses, *self.scores, *SOLVERS)
        self.problems.unknown(Code.E0741, "measure", name, measure.span, known)
        return None

    def _plain(self, measured: s.Measurement, found: Quantity) -> Quantity | None:
        before = len(self.problems)
        arguments(measured.use, Entry(MEASURES[str(found.measure)], {}), {}, self.problems)
        if found.measure == "autodiff" and not builtin(found.curvature):
            self.problems.say(Code.E0748, f"`{found.name}` is not what automatic differentiation gives", measured.span, "`autodiff(…)` is for chains of built-in stages, without sampling")  # fmt: skip
        return found if len(self.problems) == before else None

    def _scored(self, use: s.Use, found: Quantity) -> Quantity | None:
        """`relatif(mine)`: scores under a curvature."""
        definition, before = self.scores[use.name], len(self.problems)
        given = arguments(use, score_entry(definition), {}, self.problems)
        if len(self.problems) > before or check_score(definition, self.inverses):
            return None
        formula = formula_with(definition, given, use.span, definition.doc, self.inverses)
        beyond = next((x for x in formula.needs if in_segments(x)), None)
        if beyond is not None:
            self.problems.say(Code.E0244, f"`{use.name}` needs `{written(beyond)}`, which a drawn task does not have", use.name_span, "state laws about scores without segments of a training: without `time` and the index `c`")  # fmt: skip
            return None
        return replace(found, score=formula)

    def _solved(self, use: s.Use, found: Quantity) -> Quantity | None:
        """`cg(mine, tolerance = 1e-12)`: the entries that a solver finds of the damped inverse."""
        before = len(self.problems)
        given = arguments(use, SOLVERS[use.name], {}, self.problems)
        preconditioner = self._preconditioner(use, str(given.get("preconditioner", NONE)))
        if len(self.problems) > before:
            return None
        return replace(found, solver=Solver(use.name, given, preconditioner, use.span))

    def _preconditioner(self, use: s.Use, name: str) -> Curvature | None:
        if name == NONE:
            return None
        span = next((x.span for x in use.arguments if x.name == "preconditioner"), use.span)
        found = self.named(s.Word(name, span))
        return None if found is None else found.curvature


def kind_of(quantity: Quantity) -> str:
    """What a quantity is, in words: two sides of a law are of one kind."""
    if quantity.score is not None:
        return "scores of pairs" if of_queries(quantity.score) else "scores of training examples"
    kinds: Mapping[str | None, str] = {
        "trace": "a number",
        "norm": "a number",
        "diagonal": "a vector",
        "eigenvalues": "a vector",
    }
    return kinds.get(quantity.measure, "a matrix")


__all__ = ["Measures", "kind_of"]
