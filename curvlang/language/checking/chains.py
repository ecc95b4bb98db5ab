"""Curvatures to typed chains: sources, stages in order, needs met, parameters known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, Severity
from curvlang.diagnostics.source import NOWHERE
from curvlang.ir.constants import SMALLEST
from curvlang.language.bodies.readings import Readings
from curvlang.language.chain import Chain, Combination, Curvature, Stage, Weight
from curvlang.language.checking.labels import LABELS
from curvlang.language.checking.names import Names, shipped_names
from curvlang.language.checking.walker import LONGEST_CHAIN, Walker
from curvlang.language.registry import SOLVERS, SOURCES, STAGES, WEIGHTS
from curvlang.language.sums import weighted_chains
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

MOST_TERMS = 100
"""Terms of a sum, with sums inside it multiplied out."""


@dataclass(slots=True)
class Chains:
    """Types the curvatures of a file, each once.

    Args:
        names: What the file sees.
        problems: Collects diagnostics.
        readings: Bodies of transforms with their arguments.
    """

    names: Names
    problems: Problems = field(default_factory=Problems)
    readings: Readings = field(default_factory=Readings)
    _done: dict[str, Curvature | None] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    def curvature(self, definition: s.CurvatureDef) -> Curvature | None:
        """The typed curvature; None where something in it is wrong."""
        name = definition.name
        if name not in self._done:
            if len(self._open) > LONGEST_CHAIN:
                self.problems.say(
                    Code.E0223,
                    f"a curvature starts from another at most {LONGEST_CHAIN} times over",
                    Label(definition.name_span, "too many before it"),
                    "start one of them from `hessian`",
                )
                return None
            self._open.append(name)
            before = len(self.problems)
            made = self._combination(definition.body, name, definition.doc)
            self._open.pop()
            new = self.problems[before:]
            wrong = any(p.severity is Severity.ERROR for p in new)
            self._done[name] = None if wrong else made
        return self._done[name]

    def named(self, word: s.Word) -> Curvature | None:
        """The curvature of a name, as a chain that starts from it and has no stage would be."""
        use = s.Use(word.text, (), word.span, word.span)
        found = self._source(s.ChainSyntax(use, (), word.span))
        return None if found is None else replace(found, name=word.text)

    def _combination(self, body: s.CombinationSyntax, name: str, doc: str) -> Curvature | None:
        weights = [self._weight(term) for term in body.terms]
        if len(body.terms) == 1 and weights[0] == Weight():
            return self._chain(body.terms[0].chain, name, doc)
        # A term keeps its own name: the name of the sum belongs to the sum.
        parts = [
            (w, self._chain(t.chain, "", "")) for w, t in zip(weights, body.terms, strict=True)
        ]
        if any(part is None for _, part in parts):
            return None
        made = Combination(name, tuple((w, p) for w, p in parts if p is not None), doc, body.span)
        return made if self._short(made) and self._weighed(made) else None

    def _weighed(self, made: Combination) -> bool:
        """Whether every weight, sums inside the sum multiplied out, is a number to compute with."""
        inner = [(w, *x) for w, part in made.terms for x in weighted_chains(part)]
        for weight, own, chain in inner:
            size = abs(weight.number * own.number)
            if not isfinite(weight.number):
                return False  # It has been refused as a weight.
            if isfinite(size) and (size >= SMALLEST or 0 in (weight.number, own.number)):
                continue
            name, rounds = chain.labels[-1], size < SMALLEST
            self.problems.say(
                Code.E0346 if rounds else Code.E0423,
                f"the weight of `{name}` in this sum {'rounds to zero' if rounds else 'is not finite'}",
                Label(made.span, "with the weights of the sums that it names"),
                f"multiply `{name}` by a {'larger' if rounds else 'smaller'} number",
            )
            return False
        return True

    def _short(self, made: Combination) -> bool:
        """Whether a sum, sums inside it multiplied out, has few enough terms."""
        count = sum(1 for _, part in made.terms for _ in weighted_chains(part))
        if count > MOST_TERMS:
            self.problems.say(
                Code.E0234,
                f"a sum of curvatures has at most {MOST_TERMS} terms, and this one has {count}",
                Label(made.span, "with the terms of the sums that it names"),
                "write a term that stands many times once, with a number: `3 * ggn`",
            )
        return count <= MOST_TERMS

    def _weight(self, term: s.WeightedChain) -> Weight:
        """The weight of a term; its names must be values that a task has."""
        for word in term.names:
            if word.text not in WEIGHTS:
                known = ", ".join(f"`{x}` ({meaning})" for x, meaning in WEIGHTS.items())
                self.problems.say(
                    Code.E0212,
                    f"a curvature is multiplied by a number or a value of the task, "
                    f"not by `{word.text}`",
                    Label(word.span, "no number, no value of a task"),
                    f"names that may stand here: {known}",
                    "else write the number itself, as in `0.1 * diagonal`",
                )
        if not isfinite(term.weight):
            self.problems.say(
                Code.E0212,
                "a curvature is multiplied by a finite number",
                Label(term.span, "this weight is not a finite number"),
                "write the number itself, as in `0.1 * diagonal`",
            )
        return Weight(term.weight, tuple(sorted(word.text for word in term.names)))

    def _chain(self, chain: s.ChainSyntax, name: str, doc: str) -> Curvature | None:
        start = self._source(chain)
        if start is None:
            for use in chain.stages:
                Walker(self.names, self.problems, self.readings).known(use)
            return None
        if isinstance(start, Combination):
            if not chain.stages:
                return replace(start, name=name)
            self.problems.say(
                Code.E0213,
                "a sum of curvatures has no stages after it",
                Label(chain.stages[0].span, "a stage reads what one chain defines"),
                "put the stage into the terms of the sum",
            )
            return None
        walker = Walker(self.names, self.problems, self.readings)
        if not walker.inherit(
            start if start.span is not NOWHERE else replace(start, span=chain.span)
        ):
            return None
        for use in chain.stages:
            if len(walker.stages) <= LONGEST_CHAIN:
                walker.step(use)
        labels = walker.labels
        if name and len(labels) > 1:
            labels = [*labels[:-1], name]
        return Chain(name, tuple(walker.stages), tuple(labels), doc, chain.span)

    def _source(self, chain: s.ChainSyntax) -> Curvature | None:
        source = chain.source
        if isinstance(source, s.CombinationSyntax):
            return self._combination(source, "", "")
        name = source.name
        if name in self._open and not (name == self._open[-1] and name in SOURCES):
            circle = " → ".join([*self._open[self._open.index(name) :], name])
            self.problems.say(
                Code.E0204,
                f"`{name}` is defined by itself: {circle}",
                Label(source.span, "closes the circle"),
                "start one of them from `hessian`",
            )
            return None
        if name in self.names.curvatures and name not in self._open:
            return self.curvature(self.names.curvatures[name])
        if name in SOURCES:
            return Chain(name, (Stage(name, {}, span=source.span),), (name,))
        if name in STAGES or name in self.names.transforms:
            self.problems.say(
                Code.E0205,
                f"a chain starts from a curvature, and `{name}` is a stage",
                Label(source.span, "no source before it"),
                f"write `hessian |> {name}`",
            )
            return None
        self.problems.unknown(Code.E0206, "curvature", name, source.span, self.names.starts)
        return None


def register_labels() -> None:
    """Type the shipped curvatures once, so that prefixes of other chains can be named."""
    if LABELS:
        return
    names = shipped_names()
    chains = Chains(names)
    for name, definition in names.curvatures.items():
        made = chains.curvature(definition)
        # A curvature that is named after its inverse or solver, or is another one's, names a method.
        method = name in names.inverses or name in SOLVERS or _another(definition)
        if isinstance(made, Chain) and not method:
            LABELS.setdefault(tuple(stage.step for stage in made.stages), name)


def _another(definition: s.CurvatureDef) -> bool:
    """Whether a definition gives another curvature a second name."""
    terms = definition.body.terms
    source = terms[0].chain.source
    alone = len(terms) == 1 and not terms[0].chain.stages
    return alone and isinstance(source, s.Use) and source.name not in SOURCES
