"""Curvatures to typed chains: sources, stages in order, needs met, parameters known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import assert_never

from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.ir.expr import (
    BodyStatement,
    Define,
    Expr,
    Number,
    Project,
    Ref,
    Space,
    Target,
    Yield,
)
from curvlang.ir.indices import substitute
from curvlang.language import syntax as s
from curvlang.language.chain import Chain, Combination, Curvature, Stage, Value, Weight
from curvlang.language.names import Names, shipped_names
from curvlang.language.registry import SOURCES, STAGES, WEIGHTS, Entry, Rule
from curvlang.language.repeats import (
    CHECKED_ROUNDS,
    MOST_ROUNDS,
    check_repeats,
    check_rounds,
    rounds,
)
from curvlang.language.tensors import (
    COLUMNS,
    LAYER_LEAVES,
    LEAF_NAMES,
    MEANING,
    MODEL_LEAVES,
    MODEL_LETTERS,
    Scope,
    TensorChecker,
    letters,
)
from curvlang.language.values import arguments, suggestion, value

_TYPES = ("int", "float", "bool", "list", "word")


@dataclass(slots=True)
class Chains:
    """Types the curvatures of a file, each once.

    Args:
        names: What the file sees.
        problems: Collects diagnostics.
    """

    names: Names
    problems: list[Diagnostic] = field(default_factory=list)
    _done: dict[str, Curvature | None] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    def curvature(self, definition: s.CurvatureDef) -> Curvature | None:
        """The typed curvature; None where something in it is wrong."""
        name = definition.name
        if name not in self._done:
            self._open.append(name)
            before = len(self.problems)
            made = self._combination(definition.body, name, definition.doc)
            self._open.pop()
            self._done[name] = made if len(self.problems) == before else None
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
        return Combination(name, tuple((w, p) for w, p in parts if p is not None), doc, body.span)

    def _weight(self, term: s.Weighted) -> Weight:
        """The weight of a term; its names must be values that a task has."""
        for name, span in term.names:
            if name not in WEIGHTS:
                known = ", ".join(f"`{x}` ({meaning})" for x, meaning in WEIGHTS.items())
                self._say(
                    "E0212",
                    f"a curvature is multiplied by a number or a value of the task, not by `{name}`",
                    Label(span, "no number, no value of a task"),
                    (
                        f"names that may stand here: {known}",
                        "else write the number itself, as in `0.1 * diagonal`",
                    ),
                )
        if not isfinite(term.weight):
            self._say(
                "E0212",
                "a curvature is multiplied by a finite number",
                Label(term.span, "this weight is none"),
                ("write the number itself, as in `0.1 * diagonal`",),
            )
        return Weight(term.weight, tuple(sorted(name for name, _ in term.names)))

    def _chain(self, chain: s.ChainSyntax, name: str, doc: str) -> Curvature | None:
        start = self._source(chain)
        if start is None:
            for use in chain.stages:
                self._known(use)
            return None
        if isinstance(start, Combination):
            if not chain.stages:
                return replace(start, name=name)
            self._say(
                "E0213",
                "a sum of curvatures has no stages after it",
                Label(chain.stages[0].span, "a stage reads what one chain defines"),
                ("put the stage into the terms of the sum",),
            )
            return None
        walker = _Walker(self, list(start.stages), list(start.labels))
        for stage in start.stages:
            walker.replay(stage)
        for use in chain.stages:
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
        if name in self._open and not (name == self._open[-1] and self._shipped_twin(name)):
            circle = " → ".join([*self._open[self._open.index(name) :], name])
            self._say(
                "E0204",
                f"`{name}` is defined by itself: {circle}",
                Label(source.span, "closes the circle"),
                ("start one of them from `hessian`",),
            )
            return None
        if name in SOURCES and not (name in self.names.curvatures and name not in self._open):
            return Chain(name, (Stage(name, {}, span=source.span),), (name,))
        if name in self.names.curvatures and name not in self._open:
            return self.curvature(self.names.curvatures[name])
        if name in SOURCES:
            return Chain(name, (Stage(name, {}, span=source.span),), (name,))
        if name in STAGES or name in self.names.transforms:
            self._say(
                "E0205",
                f"a chain starts from a curvature, and `{name}` is a stage",
                Label(source.span, "no source before it"),
                (f"write `hessian |> {name}`",),
            )
            return None
        self._say(
            "E0206",
            f"unknown curvature `{name}`",
            Label(source.span),
            suggestion(name, (*SOURCES, *self.names.curvatures)),
        )
        return None

    def _shipped_twin(self, name: str) -> bool:
        return name in SOURCES

    def _known(self, use: s.Use) -> bool:
        if use.name in STAGES or use.name in self.names.transforms:
            return True
        if use.name in SOURCES or use.name in self.names.curvatures:
            self._say(
                "E0208",
                f"`{use.name}` is a curvature, not a stage",
                Label(use.span),
                (f"start a chain from it: `curvature mine = {use.name} |> …`",),
            )
        else:
            self._say(
                "E0209",
                f"unknown transformation `{use.name}`",
                Label(use.name_span),
                suggestion(use.name, (*STAGES, *self.names.transforms)),
            )
        return False

    def _say(self, code: str, headline: str, label: Label, help_: tuple[str, ...] = ()) -> None:
        self.problems.append(Diagnostic(code, headline, (label,), help_))


@dataclass(slots=True)
class _Walker:
    """Follows a chain from left to right with the tensors in scope."""

    owner: Chains
    stages: list[Stage]
    labels: list[str]
    scope: Scope = field(default_factory=lambda: dict(MODEL_LEAVES))
    columns: bool = False
    layered: bool = False
    broken: bool = False
    spaces: dict[str, str] = field(default_factory=dict)
    former: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def replay(self, stage: Stage) -> None:
        """Take over what an inherited stage defines; it has been checked already."""
        if stage.builtin:
            self._builtin_scope(stage.name)
        else:
            self._defines(stage.needs, stage.body, stage.name)

    def step(self, use: s.Use) -> None:
        """Check one stage and put it at the end of the chain."""
        if not self.owner._known(use):
            self.broken = True
            return
        stage = self._builtin(use) if use.name in STAGES else self._written(use)
        if stage is None:
            self.broken = True
            return
        self.stages.append(stage)
        self.labels.append(_label(tuple(self.stages), stage.name))

    def _builtin(self, use: s.Use) -> Stage | None:
        given = self._arguments(use, STAGES[use.name])
        if use.name == "drop_residual" and (self.layered or self.columns):
            word = "after `block_diagonal`" if self.layered else "a second time"
            self._order(use, f"`drop_residual` cannot stand {word}")
            return None
        if use.name == "block_diagonal" and self.layered:
            self._order(use, "`block_diagonal` stands in the chain already")
            return None
        if any(not x.builtin for x in self.stages):
            self._order(use, f"`{use.name}` takes the Hessian or the Gauss–Newton matrix only")
            return None
        if given is None:
            return None
        if given.get("fisher") in ("exact", "empirical") and any(
            a.name == "samples" for a in use.arguments
        ):
            self.owner._say(
                "E0211",
                f"`samples` has no meaning with `fisher = {given['fisher']}`",
                Label(use.span),
                ("leave it out, or write `fisher = mc`",),
            )
        self._builtin_scope(use.name)
        return Stage(use.name, given, span=use.span)

    def _builtin_scope(self, name: str) -> None:
        match name:
            case "drop_residual":
                self.columns = True
            case "block_diagonal":
                self.layered = True
                self.scope = dict(LAYER_LEAVES)
                if self.columns:
                    self.scope.update(COLUMNS)
                    del self.scope["H"]
            case _:
                pass

    def _order(self, use: s.Use, headline: str) -> None:
        self.owner._say(
            "E0210",
            headline,
            Label(use.span, "out of order"),
            ("the order is `hessian |> drop_residual |> block_diagonal |> …`",),
        )

    def _arguments(self, use: s.Use, entry: Entry) -> dict[str, Value] | None:
        before = len(self.owner.problems)
        given = arguments(use.arguments, entry, use.name, {}, self.owner.problems)
        return given if len(self.owner.problems) == before else None

    def _written(self, use: s.Use) -> Stage | None:
        transform = self.owner.names.transforms[use.name]
        own = tuple(a for a in use.arguments if a.name != "others")
        others = next((a for a in use.arguments if a.name == "others"), None)
        entry = Entry(transform.doc, {p.name: _rule(p) for p in transform.parameters})
        given = self._arguments(replace(use, arguments=own), entry)
        if given is None or not self._needs(use, transform):
            return None
        wrong = check_rounds(transform.body, given, {a.name: a.span for a in own})
        if wrong:
            self.owner.problems += wrong
            return None
        body = specialise(transform.body, given)
        self._defines(transform.needs, body, use.name)
        clause = None if others is None else self._others(others)
        return Stage(use.name, given, transform.needs, body, clause, transform.doc, use.span)

    def _others(self, argument: s.Argument) -> str | tuple[Stage, ...] | None:
        """The clause for layers that a stage does not fit."""
        made = value(argument.value, {}, self.owner.problems)
        if made == "ignore":
            return "ignore"
        known = self.owner.names.transforms
        if isinstance(made, str) and made in known:
            walker = replace(self, stages=[], labels=[], scope=dict(self.scope))
            stage = walker._written(s.Use(made, (), argument.span, argument.span))
            return None if stage is None else (stage,)
        self.owner._say(
            "E0214",
            f"`others = {made}` names no transformation",
            Label(argument.span),
            suggestion(str(made), ("ignore", *known)),
        )
        return None

    def _needs(self, use: s.Use, transform: s.TransformDef) -> bool:
        fine = True
        absent = [t for t in transform.needs if t.name not in self.scope]
        if absent:
            # What is missing is missing for one reason: the columns name the most of it.
            self._missing(use, next((t for t in absent if t.name in COLUMNS), absent[0]))
            return False
        bound: dict[str, str] = {}
        for target in transform.needs:
            have, want = self.scope[target.name], self._wanted(target, bound)
            if have != want:
                self._other_spaces(use, target, have, want)
                fine = False
        if not fine:
            return False
        if not self._projects(use, transform):
            return False
        model_yield = _yields_model(transform.body)
        if model_yield is not None and model_yield == self.layered:
            what = "the whole model" if model_yield else "a block per layer"
            wrong, right = ("after", "before") if model_yield else ("before", "after")
            self.owner._say(
                "E0216",
                f"`{use.name}` yields {what} and stands {wrong} `block_diagonal`",
                Label(use.span),
                (f"put it {right} `block_diagonal(by = layer)`",),
            )
            return False
        return True

    def _missing(self, use: s.Use, target: Target) -> None:
        line, _ = use.span.source.position(use.span.start)
        written = _written(target)
        definers = [
            name
            for name, t in self.owner.names.transforms.items()
            if _body_defines(t.body, target.name)
        ]
        if target.name in COLUMNS and not self.columns:
            if self.layered:
                help_ = "`drop_residual` before `block_diagonal` defines `g`; insert it there"
            else:
                help_ = (
                    "`drop_residual` followed by `block_diagonal(by = layer)` defines "
                    f"`{target.name}`; insert them before line {line}"
                )
        elif target.name in (*COLUMNS, *LAYER_LEAVES) and not self.layered:
            help_ = f"`block_diagonal(by = layer)` defines `{target.name}`; insert it before line {line}"
        elif definers:
            help_ = f"`{definers[0]}` defines `{target.name}`; insert it before line {line}"
        else:
            help_ = f"define `{target.name}` in a stage before line {line}"
        meaning = MEANING.get(target.name, f"`{target.name}` of an earlier stage")
        self.owner._say(
            "E0207",
            f"`{use.name}` needs `{written}`, which no stage before it defines",
            Label(use.name_span, f"needs {meaning}"),
            (help_,),
        )

    def _wanted(self, target: Target, bound: dict[str, str]) -> tuple[str, ...]:
        """The spaces a need asks for: the model's as they are now, others as they were made."""
        found = []
        for index, space in zip(target.indices, self.scope[target.name], strict=False):
            letter = index.space
            if letter in MODEL_LETTERS:
                found.append(self.spaces.get(letter, letter))
                continue
            # Two letters for one space would meet in a product: a second index takes a prime.
            taken = {*self.spaces.values(), *(v for k, v in bound.items() if k != letter)}
            found.append("" if space in taken else bound.setdefault(letter, space))
        return (*found, *(x.space for x in target.indices[len(found) :]))

    def _other_spaces(
        self, use: s.Use, target: Target, have: tuple[str, ...], want: tuple[str, ...]
    ) -> None:
        replaced = [
            (index.space, self.former[space])
            for index, space, other in zip(target.indices, have, want, strict=False)
            if space != other and space in self.former
        ]
        if replaced:
            letter, by = replaced[0]
            self.owner._say(
                "E0220",
                f"`{use.name}` needs `{_written(target)}`, which was computed before `{by}` "
                f"replaced `{letter}`",
                Label(use.name_span, f"`{letter}` is another space here"),
                (f"compute `{target.name}` again between `{by}` and `{use.name}`",),
            )
            return
        shown = ",".join(x.partition("@")[0] for x in have)
        current = {space: letter for letter, space in self.spaces.items()}
        shared = [
            (str(index), current[space])
            for index, space, other in zip(target.indices, have, want, strict=False)
            if not other and space in current
        ]
        self.owner._say(
            "E0215",
            f"`{use.name}` needs `{_written(target)}`, and here it is `{target.name}[{shown}]`",
            Label(use.name_span, "other index spaces"),
            tuple(
                f"`{index}` is the same space as `{letter}` here: write `{letter}` for it"
                for index, letter in shared
            ),
        )

    def _projects(self, use: s.Use, transform: s.TransformDef) -> bool:
        """A projection of `p` stands before `block_diagonal`, one of `i` and `o` after it."""
        found = [x for x in _flat(transform.body) if isinstance(x, Project)]
        wrong = next((x for x in found if (x.old == "p") == self.layered), None)
        if wrong is None:
            return True
        what = "a layer's features" if wrong.old != "p" else "the whole model's parameters"
        right = "before" if wrong.old == "p" else "after"
        self.owner._say(
            "E0216",
            f"`{use.name}` projects {what} and stands {'after' if self.layered else 'before'} "
            "`block_diagonal`",
            Label(use.span),
            (f"put it {right} `block_diagonal(by = layer)`",),
        )
        return False

    def _defines(self, needs: Sequence[Target], body: Sequence[BodyStatement], stage: str) -> None:
        """Take over what a stage defines, each made space under a name of its own."""
        self.count += 1
        bound: dict[str, str] = {}
        for target in needs:
            if target.name in self.scope:
                self._wanted(target, bound)

        def space(letter: str) -> str:
            if letter in MODEL_LETTERS:
                return self.spaces.get(letter, letter)
            return bound.setdefault(letter, f"{letter}@{self.count}")

        for statement in body:
            if isinstance(statement, Define):
                for target in statement.targets:
                    if target.name != "_" and target.indices:
                        self.scope[target.name] = tuple(map(space, letters(target)))
        renamed = {space(x.old): (x.old, space(x.new)) for x in body if isinstance(x, Project)}
        for old, (letter, new) in renamed.items():
            self.former[old] = stage
            self.spaces[letter] = new
        for name in LEAF_NAMES:
            if name in self.scope:
                self.scope[name] = tuple(
                    renamed[x][1] if x in renamed else x for x in self.scope[name]
                )


def _flat(body: Sequence[s.BodySyntax]) -> list[BodyStatement]:
    """Every statement of a body, those of both branches of a choice and of one round included."""
    found: list[BodyStatement] = []
    for statement in body:
        if isinstance(statement, s.When):
            found += _flat((*statement.then, *statement.otherwise))
        elif isinstance(statement, s.Repeat):
            found += _flat(statement.body)
        else:
            found.append(statement)
    return found


def _written(target: Target) -> str:
    return f"{target.name}[{','.join(map(str, target.indices))}]"


def _body_defines(body: Sequence[s.BodySyntax], name: str) -> bool:
    return any(
        isinstance(x, Define) and any(t.name == name for t in x.targets) for x in _flat(body)
    )


def _yields_model(body: Sequence[s.BodySyntax]) -> bool | None:
    """Whether a body yields for the whole model; None where it yields nothing at all."""
    found = (len(x.target.indices) == 2 for x in _flat(body) if isinstance(x, Yield))
    return next(found, None)


def _rule(parameter: s.Parameter) -> Rule:
    default = None if parameter.default is None else value(parameter.default, {}, [])
    kind = {"list": "any"}.get(parameter.type, parameter.type)
    if kind == "float" and isinstance(default, int):
        default = float(default)
    return Rule(
        kind if kind in ("int", "float", "bool", "word") else "any", default, parameter.words
    )


def specialise(
    body: Sequence[s.BodySyntax], given: Mapping[str, Value], most: int = MOST_ROUNDS
) -> tuple[BodyStatement, ...]:
    """The body with `when` decided, `repeat` unrolled and number parameters written in."""
    numbers: dict[str, tuple[tuple[()], Expr]] = {
        name: ((), Number(float(v)))
        for name, v in given.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }
    found: list[BodyStatement] = []
    for statement in body:
        match statement:
            case s.When():
                shown = {True: "true", False: "false"}.get(given.get(statement.parameter))  # type: ignore[call-overload]
                chosen = (shown or str(given.get(statement.parameter))) == statement.word
                branch = statement.then if chosen else statement.otherwise
                found.extend(specialise(branch, given, most))
            case s.Repeat():
                found.extend(
                    specialise(statement.body, given, most) * rounds(statement, given, most)
                )
            case Define(value=value) | Yield(value=value):
                found.append(replace(statement, value=substitute(value, dict(numbers))))
            case Space(length=length):
                found.append(replace(statement, length=substitute(length, dict(numbers))))
            case Project():
                found.append(statement)
            case _:
                assert_never(statement)
    return tuple(found)


def check_transform(definition: s.TransformDef) -> list[Diagnostic]:
    """Everything that can be wrong inside one transform, wherever it will stand."""
    problems: list[Diagnostic] = []
    for parameter in definition.parameters:
        if parameter.type not in _TYPES:
            problems.append(
                Diagnostic(
                    "E0217",
                    f"unknown type `{parameter.type}`",
                    (Label(parameter.span),),
                    ("types are `int`, `float`, `bool`, or words such as `{expand, reduce}`",),
                )
            )
        if parameter.words and parameter.default is not None:
            default = value(parameter.default, {}, problems)
            if default not in parameter.words:
                problems.append(
                    Diagnostic(
                        "E0706",
                        f"`{parameter.name} = {default}` is not one of its own words",
                        (Label(parameter.span),),
                        suggestion(str(default), parameter.words),
                    )
                )
    wrong = check_repeats(definition)
    problems += wrong
    # What may not stand in rounds would be wrong once more in the second one.
    for body in _variants(definition, problems, 1 if wrong else CHECKED_ROUNDS):
        checker = TensorChecker(
            definition.needs,
            frozenset(p.name for p in definition.parameters if p.type in ("int", "float")),
        )
        _check_body(definition, body, checker)
        for problem in checker.problems:
            if problem not in problems:
                problems.append(problem)
    return problems


def _variants(
    definition: s.TransformDef, problems: list[Diagnostic], most: int
) -> list[tuple[BodyStatement, ...]]:
    """The bodies that `when` can choose: each branch is taken in one of them."""
    words = {p.name: p for p in definition.parameters}
    choices: dict[str, set[str]] = {}
    _collect_choices(definition.body, words, choices, problems)
    variants: list[dict[str, Value]] = [{}]
    for name, found in choices.items():
        options = set(words[name].words) or (found | {"\0"})
        variants = [{**v, name: word} for v in variants for word in sorted(options)][:64]
    bodies = (specialise(definition.body, v, most) for v in variants)
    return list(dict.fromkeys(bodies))


def _collect_choices(
    body: Sequence[s.BodySyntax],
    words: Mapping[str, s.Parameter],
    choices: dict[str, set[str]],
    problems: list[Diagnostic],
) -> None:
    for statement in body:
        if isinstance(statement, s.Repeat):
            _collect_choices(statement.body, words, choices, problems)
        if not isinstance(statement, s.When):
            continue
        parameter = words.get(statement.parameter)
        if parameter is None:
            problems.append(
                Diagnostic(
                    "E0218",
                    f"`when` asks for `{statement.parameter}`, which is no parameter here",
                    (Label(statement.span),),
                    suggestion(statement.parameter, words),
                )
            )
            continue
        if parameter.words and statement.word not in parameter.words:
            problems.append(
                Diagnostic(
                    "E0706",
                    f"`{statement.parameter}` is never `{statement.word}`",
                    (Label(statement.span),),
                    suggestion(statement.word, parameter.words),
                )
            )
        choices.setdefault(statement.parameter, set()).add(statement.word)
        for branch in (statement.then, statement.otherwise):
            _collect_choices(branch, words, choices, problems)


def _check_body(
    definition: s.TransformDef, body: Sequence[BodyStatement], checker: TensorChecker
) -> None:
    yields = 0
    for statement in body:
        match statement:
            case Define():
                checker.define(statement)
            case Space():
                checker.space(statement)
            case Project():
                checker.project(statement)
            case Yield():
                yields += 1
                checker.yields(statement)
            case _:
                assert_never(statement)
    projection = next((x for x in body if isinstance(x, Project)), None)
    if yields and projection is not None:
        checker.problems.append(
            Diagnostic(
                "E0221",
                f"`{definition.name}` projects and yields",
                (Label(projection.span, "its curvature is the one before it, projected"),),
                ("leave the yield out, or put it into a transform that stands after this one",),
            )
        )
        return
    defines_leaf = any(
        isinstance(x, Define) and any(t.name in ("a", "g") for t in x.targets) for x in body
    )
    if yields != 1 and not (yields == 0 and (defines_leaf or projection is not None)):
        what = "never yields" if yields == 0 else f"yields {yields} times"
        checker.problems.append(
            Diagnostic(
                "E0219",
                f"`{definition.name}` {what}",
                (Label(definition.name_span),),
                ("a transform yields the entries of the block once: `yield C[o,i,o',i'] = …`",),
            )
        )


def _label(stages: tuple[Stage, ...], fallback: str) -> str:
    """The name of the shipped curvature that these stages make, or the last stage's own."""
    return shipped_labels().get(tuple(stage.key for stage in stages), fallback)


_LABELS: dict[tuple[object, ...], str] = {}


def shipped_labels() -> Mapping[tuple[object, ...], str]:
    """Stage keys of every shipped chain to its name; filled by `register_labels`."""
    return _LABELS


def register_labels() -> None:
    """Type the shipped curvatures once, so that prefixes of other chains can be named."""
    if _LABELS:
        return
    names = shipped_names()
    chains = Chains(names)
    for name, definition in names.curvatures.items():
        made = chains.curvature(definition)
        if isinstance(made, Chain):
            _LABELS.setdefault(tuple(stage.key for stage in made.stages), name)


__all__ = ["Chains", "Ref", "check_transform", "register_labels", "specialise"]
