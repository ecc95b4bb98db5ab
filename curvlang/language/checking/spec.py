"""A file, checked whole: every name resolved, every problem found at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, Severity, SpecError
from curvlang.diagnostics.record import Repair
from curvlang.diagnostics.source import NOWHERE, Source, Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir.expr import Ref
from curvlang.language.bodies.scores import (
    check_score,
    of_queries,
    score_entry,
)
from curvlang.language.bodies.transforms import check_transform
from curvlang.language.bodies.values import value
from curvlang.language.chain import (
    Chain,
    Curvature,
    Evaluation,
    Inverse,
    Law,
    Part,
    ScoreFormula,
    Spec,
    Study,
    TaskSpec,
    Value,
)
from curvlang.language.checking.arguments import arguments
from curvlang.language.checking.chains import Chains, register_labels
from curvlang.language.checking.check_laws import LawChecker
from curvlang.language.checking.check_scores import formula_with
from curvlang.language.checking.check_solver import check_solver
from curvlang.language.checking.check_study import Cells, StudyChecker
from curvlang.language.checking.inverses import check_inverse, check_use
from curvlang.language.checking.names import Names, collect
from curvlang.language.registry import EXTRAS, LDS, PARTS
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.docs import doc_of
from curvlang.language.syntax.parser import parse, unread
from curvlang.language.syntax.problems import LEAVE_OUT, Collector, EnoughError

DEFAULT_TASK = "digits"


def analyse(source: Source) -> tuple[Spec, list[Diagnostic]]:
    """The checked file and everything there is to say about it, errors and warnings."""
    file, problems = parse(source)
    register_labels()
    names, found = collect(file, source)
    collected = Collector()
    if problems:
        collected.unread = unread(source, file)
    try:
        collected.extend((*problems, *found))
        return SpecChecker(names, collected).run(file, source), collected.shown(stopped=False)
    except EnoughError:
        return Spec(source, {}, {}, ()), collected.shown(stopped=True)


def errors(problems: Sequence[Diagnostic]) -> list[Diagnostic]:
    """The errors among diagnostics."""
    return [p for p in problems if p.severity is Severity.ERROR]


@dataclass(slots=True)
class SpecChecker:
    """Checks the definitions of a file, one after the other, with the names that it sees."""

    names: Names
    problems: Collector
    cells: Cells = field(default_factory=Cells)

    def run(self, file: s.File, source: Source) -> Spec:
        chains = Chains(self.names, self.problems)
        curvatures: dict[str, Curvature] = {}
        inverses: dict[str, Inverse] = {}
        evaluations: list[Evaluation] = []
        studies: dict[str, Study] = {}
        scores: dict[str, ScoreFormula] = {}
        for item in file.items:
            match item:
                case s.TransformDef():
                    self.problems += check_transform(item)
                case s.ScoreDef():
                    formula = self.score(item)
                    if formula is not None:
                        scores[item.name] = formula
                case s.CurvatureDef():
                    made = chains.curvature(item)
                    if made is not None:
                        curvatures[item.name] = made
                case s.InverseDef():
                    inverses[item.name] = check_inverse(item, self.problems)
                case s.TaskDef():
                    self.task(item, (), {}, item.span)
                case s.EvaluateDef():
                    evaluation = self.evaluation(item, chains)
                    if evaluation is not None:
                        evaluations.append(evaluation)
                case s.StudyDef():
                    study = self.study(item, chains)
                    if study is not None:
                        studies[item.name] = study
                case s.LawDef() | s.UseFile():
                    pass
                case _:
                    assert_never(item)
        if not file.items and not self.problems:
            self.problems.say(
                Code.E0106,
                "the file defines nothing",
                Span(source, 0, 0),
                "write `curvature mine = hessian |> drop_residual`",
            )
        laws = self._laws(file, chains)
        return Spec(
            source,
            curvatures,
            inverses,
            tuple(evaluations),
            laws=laws,
            studies=studies,
            scores=scores,
        )

    def score(self, item: s.ScoreDef) -> ScoreFormula | None:
        """A score with the defaults of its parameters; None where it is wrong, or lacks a value."""
        found = check_score(item, self.names.inverses)
        self.problems += found
        entry = score_entry(item)
        if found or entry.defaults.keys() != entry.parameters.keys():
            return None
        inverses = self.names.inverses
        return formula_with(item, entry.defaults, item.name_span, doc_of(item), inverses)

    def score_use(self, use: s.Use) -> ScoreFormula | None:
        """A score by name with arguments: `relatif(power = 1)`."""
        definition = self.names.scores.get(use.name)
        if definition is None:
            self.problems.unknown(Code.E0240, "score", use.name, use.name_span, self.names.scores)
            return None
        before = self.problems.errors
        given = arguments(use, score_entry(definition), {}, self.problems)
        inverses = self.names.inverses
        if self.problems.errors > before or check_score(definition, inverses):
            return None
        return formula_with(definition, given, use.span, doc_of(definition), inverses)

    def _laws(self, file: s.File, chains: Chains) -> tuple[Law, ...]:
        """The laws of the file, about its own curvatures and those that it sees."""

        def resolve(name: str) -> Curvature | None:
            return chains.named(s.Word(name))

        own = [x.name for x in file.items if isinstance(x, s.CurvatureDef)]
        known = dict.fromkeys((*own, *self.names.starts))
        names = self.names
        checker = LawChecker(resolve, known, own, names.scores, self.problems, names.inverses)
        return tuple(law for x in file.items if isinstance(x, s.LawDef) for law in checker.laws(x))

    def study(self, item: s.StudyDef, chains: Chains) -> Study | None:
        """A `study` block with a task for every cell of its sweeps."""
        checker = StudyChecker(
            self.names, chains, self.task_use, self.problems, DEFAULT_TASK, self.cells
        )
        return checker.study(item)

    def evaluation(self, item: s.EvaluateDef, chains: Chains) -> Evaluation | None:
        """An `evaluate` block with every default of its task filled in."""
        before = self.problems.errors
        if item.curvature not in self.names.starts:
            self.problems.unknown(
                Code.E0206, "curvature", item.curvature, item.name_span, self.names.starts
            )
        for line in item.repeated:
            headline = f"`{line.word}` stands twice in one evaluation"
            self.problems.twice(Code.E0718, headline, line.span, line.first, LEAVE_OUT)
        inverse = None
        if item.inverse is not None:
            inverse = check_use(item.inverse, self.names.inverses, self.problems)
        use = item.task or s.Use(DEFAULT_TASK, (), NOWHERE, item.span)
        task = self.task_use(use)
        score = None if item.score is None else self.score_use(item.score)
        if score is not None and item.lds is not None and not of_queries(score):
            self.problems.say(
                Code.E0243,
                f"`{score.name}` scores training examples alone, and `lds` asks for scores of queries",
                Label(item.score.span if item.score is not None else item.span, "without queries"),
                "leave `lds` out, or yield a number for every query: `yield s[q,n] = …`",
            )
        against = item.against
        if against is not None and against.name not in self.names.starts:
            self.problems.unknown(
                Code.E0206, "curvature", against.name, against.span, self.names.starts
            )
        if item.influence not in (None, ("test", "train")):
            self.problems.say(
                Code.E0713,
                f"influence of `{item.influence[0]}` on `{item.influence[1]}` is not computed",
                item.span,
                "write `influence of test on train`",
            )
        solver = None
        if item.solve is not None:
            solver = check_solver(item.solve, inverse, self.names, chains, self.problems)
        lds = None
        if item.lds is not None:
            written = s.Use("lds", item.lds, item.span, item.span)
            lds = arguments(written, LDS, {}, self.problems)
        if self.problems.errors > before or task is None:
            return None
        named = None if against is None else against.name
        influence = None if item.influence is None else True
        return Evaluation(
            item.curvature, task, inverse, named, influence, lds, solver, score, item.span
        )

    def task_use(self, use: s.Use, outer: Mapping[str, Value] | None = None) -> TaskSpec | None:
        """A task by name with arguments, which may read the `outer` names of a sweep."""
        definition = self.names.tasks.get(use.name)
        if definition is None:
            place = use.name_span if use.name_span is not NOWHERE else use.span
            self.problems.unknown(Code.E0711, "task", use.name, place, self.names.tasks)
            return None
        return self.task(definition, use.arguments, outer or {}, use.span)

    def task(
        self,
        definition: s.TaskDef,
        given: tuple[s.Argument, ...],
        outer: Mapping[str, Value],
        span: Span,
    ) -> TaskSpec | None:
        """A task with its parameters written into its parts."""
        before = self.problems.errors
        # A task reads its own parameters alone: what is swept reaches it through its arguments.
        scope: dict[str, Value] = {}
        known = {p.name: p for p in definition.parameters}
        for parameter in definition.parameters:
            made = value(parameter.value, {}, self.problems)
            if made is not None:
                scope[parameter.name] = made
        for argument in given:
            if argument.name not in known:
                self.problems.say(
                    Code.E0703,
                    f"`{definition.name}` has no parameter `{argument.name}`",
                    argument.span,
                    *suggestion(argument.name, known),
                )
                continue
            made = value(argument.value, outer, self.problems)
            if made is not None:
                scope[argument.name] = made
        parts = self._parts(definition, scope, {a.name: a.span for a in given})
        if self.problems.errors > before or parts is None:
            return None
        chosen = {k: v for k, v in scope.items() if k in known}
        return TaskSpec(definition.name, chosen, **parts, doc=definition.doc, span=span)

    def _parts(
        self, definition: s.TaskDef, scope: Mapping[str, Value], places: Mapping[str, Span]
    ) -> dict[str, Part] | None:
        found: dict[str, Part] = {}
        for kind, use in definition.parts:
            if kind in found:
                self.problems.say(
                    Code.E0714, f"the task states `{kind}` twice", use.span, LEAVE_OUT
                )
            table = {**PARTS, **EXTRAS}[kind]
            entry = table.get(use.name)
            if entry is None:
                what = {"train": "optimiser"}.get(kind, kind)
                self.problems.unknown(Code.E0715, what, use.name, use.name_span, table)
                continue
            count = len(self.problems)
            values = arguments(use, entry, scope, self.problems)
            self._blame(count, use, places)
            found[kind] = Part(use.name, values, use.span)
        missing = [kind for kind in PARTS if kind not in {k for k, _ in definition.parts}]
        if missing:
            line = f"{missing[0]} {next(iter(PARTS[missing[0]]))}"
            end = definition.span.end - 1
            closing = Span(definition.span.source, end, end)
            self.problems.say(
                Code.E0716,
                f"the task `{definition.name}` lacks `{'`, `'.join(missing)}`",
                definition.name_span,
                Repair(f"add a line such as `{line}`", f"  {line}\n", span=closing),
            )
        return found if set(found) >= set(PARTS) else None

    def _blame(self, start: int, use: s.Use, places: Mapping[str, Span]) -> None:
        """Show a bad value where it was given: in the call, not only inside the task."""
        for k in range(start, len(self.problems)):
            problem = self.problems[k]
            for argument in use.arguments:
                name = argument.value.name if isinstance(argument.value, Ref) else ""
                if name in places and problem.labels and problem.labels[0].span == argument.span:
                    first = Label(places[name], problem.labels[0].message)
                    rest = Label(argument.span, "used here")
                    self.problems[k] = replace(problem, labels=(first, rest))


def curvature_named(name: str, spec: Spec | None = None) -> Curvature:
    """A curvature of a spec, or one that ships, by name."""
    if spec is not None and name in spec.curvatures:
        return spec.curvatures[name]
    source = Source(f"<{name}>", f"curvature reference = {name}")
    found, problems = analyse(source)
    if errors(problems):
        raise SpecError(errors(problems))
    made = found.curvatures["reference"]
    if isinstance(made, Chain):
        # The last label is the name of the definition made here to look the curvature up.
        return replace(made, name=name, labels=(*made.labels[:-1], name))
    return replace(made, name=name)
