"""A chain from left to right: stages in order, needs met, names and spaces in scope."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir.expr import BodyStatement, Define, Project, Target
from curvlang.language.bodies.coefficients import ScaledTerm, check_coefficients
from curvlang.language.bodies.fold_numbers import check_numbers
from curvlang.language.bodies.letters import (
    COLUMNS,
    LAYER_LEAVES,
    LEAF_NAMES,
    MEANING,
    MODEL_LEAVES,
    MODEL_LETTERS,
    letters,
)
from curvlang.language.bodies.readings import MOST_OPERATIONS, Readings
from curvlang.language.bodies.repeats import check_rounds
from curvlang.language.bodies.transforms import (
    body_defines,
    flat,
    parameter_of,
    written,
    yields_model,
)
from curvlang.language.bodies.values import value
from curvlang.language.chain import Chain, Stage, Value
from curvlang.language.checking.arguments import arguments
from curvlang.language.checking.labels import label_of
from curvlang.language.checking.names import Names
from curvlang.language.partition import COUNTED, partition_of
from curvlang.language.registry import OTHERS, SOURCES, STAGES, Entry
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

LONGEST_CHAIN = 100
"""Stages of a chain, and curvatures that start from each other; chains on paper are far shorter."""


@dataclass(slots=True)
class Walker:
    """Follows a chain from left to right with the tensors in scope.

    Args:
        names: What the file sees.
        problems: Collects diagnostics.
        readings: Bodies of transforms with their arguments.
        stages: The stages so far.
        labels: A name for the curvature after each of them.
    """

    names: Names
    problems: Problems
    readings: Readings
    stages: list[Stage] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    scope: MutableMapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(MODEL_LEAVES))
    columns: bool = False
    layered: bool = False
    spaces: dict[str, str] = field(default_factory=dict)
    former: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, ScaledTerm] = field(default_factory=dict)
    count: int = 0

    def _too_much(self, span: Span) -> None:
        """Report it once: the chains after this one are too much for the same reason."""
        if self.readings.full:
            return
        self.readings.full = True
        self.problems.say(
            Code.E0235,
            f"the chains of this file have more than {MOST_OPERATIONS} operations, "
            "rounds and shared beginnings counted in each",
            Label(span, "one stage too many"),
            "`repeat` fewer rounds, or put some of the curvatures into a file of their own",
        )

    def fork(self, problems: Problems) -> Walker:
        """A copy at the same place of the chain; what it adds does not change this one."""
        return replace(
            self,
            problems=problems,
            readings=Readings(),
            stages=list(self.stages),
            labels=list(self.labels),
            scope=ChainMap({}, self.scope),
            spaces=dict(self.spaces),
            former=dict(self.former),
            numbers=dict(self.numbers),
        )

    def inherit(self, start: Chain) -> bool:
        """Start from a typed chain, unless the file has too many operations with it."""
        if not self.readings.inherits(start.stages):
            self._too_much(start.span)
            return False
        self.stages, self.labels = list(start.stages), list(start.labels)
        for stage in start.stages:
            self.replay(stage)
        return True

    def replay(self, stage: Stage) -> None:
        """Take over what an inherited stage defines; it has been checked already."""
        if stage.builtin:
            self._builtin_scope(stage.name)
        else:
            check_coefficients(stage.body, self.numbers)
            self._defines(stage.needs, stage.body, stage.name)

    def step(self, use: s.Use) -> None:
        """Check one stage and put it at the end of the chain."""
        if not self.known(use):
            return
        stage = self._builtin(use) if use.name in STAGES else self._written(use)
        if stage is None:
            return
        self.stages.append(stage)
        self.labels.append(label_of(tuple(self.stages), stage.name))
        if len(self.stages) == LONGEST_CHAIN + 1:
            self.problems.say(
                Code.E0223,
                f"a chain has at most {LONGEST_CHAIN} stages",
                Label(use.span, "one too many"),
                "use `repeat` inside a transform for steps that recur",
            )

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
            # What follows it is read as if its arguments were right: one mistake is one message.
            self._builtin_scope(use.name)
            return None
        if given.get("fisher") in ("exact", "empirical") and any(
            a.name == "samples" for a in use.arguments
        ):
            self.problems.say(
                Code.E0211,
                f"`samples` has no meaning with `fisher = {given['fisher']}`",
                use.span,
                "leave it out, or write `fisher = mc`",
            )
        if use.name == "block_diagonal":
            given = self._cut_layers(use, given)
        self._builtin_scope(use.name)
        return Stage(use.name, given, span=use.span)

    def _cut_layers(self, use: s.Use, given: dict[str, Value]) -> dict[str, Value]:
        """`of` says which layers are cut, and nothing where blocks are whole layers."""
        if given.get("of") and partition_of(given["by"]).kind not in COUNTED:
            self.problems.say(
                Code.E0211,
                f"`of` has no meaning with `by = {partition_of(given['by']).written}`",
                use.span,
                "leave it out, or write `by = neuron`, `by = unit(size)` or `by = head(count)`",
            )
        return given if given.get("of") else {k: v for k, v in given.items() if k != "of"}

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
        self.problems.say(
            Code.E0210,
            headline,
            Label(use.span, "out of order"),
            "the order is `hessian |> drop_residual |> block_diagonal |> …`",
        )

    def _arguments(self, use: s.Use, entry: Entry) -> dict[str, Value] | None:
        before = len(self.problems)
        given = arguments(use, entry, {}, self.problems)
        return given if len(self.problems) == before else None

    def _written(self, use: s.Use) -> Stage | None:
        transform = self.names.transforms[use.name]
        own = tuple(a for a in use.arguments if a.name != "others")
        others = next((a for a in use.arguments if a.name == "others"), None)
        entry = Entry(transform.doc, {p.name: parameter_of(p) for p in transform.parameters})
        given = self._arguments(replace(use, arguments=own), entry)
        if given is None or not self._needs(use, transform):
            return None
        wrong = check_rounds(transform.body, given, {a.name: a.span for a in own})
        if wrong:
            self.problems += wrong
            return None
        if not self.readings.takes(1 + self.readings.size(transform.body, given)):
            self._too_much(use.span)
            return None
        body = self.readings.read(transform, given)
        for problem in (*check_numbers(body), *check_coefficients(body, self.numbers)):
            at = Label(use.span, "with these arguments")
            both = replace(problem, labels=(*problem.labels, at))
            if problem not in self.problems and both not in self.problems:
                self.problems.append(both)
        self._defines(transform.needs, body, use.name)
        clause = None if others is None else self._others(others)
        return Stage(use.name, given, transform.needs, body, clause, transform.doc, use.span)

    def _others(self, argument: s.Argument) -> str | tuple[Stage, ...] | None:
        """The clause for parameters that a stage does not fit."""
        made = value(argument.value, {}, self.problems)
        known = self.names.transforms
        if made in OTHERS:
            return str(made)
        if isinstance(made, str) and made in known:
            walker = self.fork(self.problems)
            walker.readings = self.readings
            stage = walker._written(s.Use(made, (), argument.span, argument.span))
            return None if stage is None else (stage,)
        self.problems.say(
            Code.E0214,
            f"`others = {made}` names no transformation",
            argument.span,
            *suggestion(str(made), (*OTHERS, *known)),
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
        model_yield = yields_model(transform.body)
        if model_yield is not None and model_yield == self.layered:
            what = "the whole model" if model_yield else "a block per layer"
            wrong, right = ("after", "before") if model_yield else ("before", "after")
            self.problems.say(
                Code.E0216,
                f"`{use.name}` yields {what} and stands {wrong} `block_diagonal`",
                use.span,
                f"put it {right} `block_diagonal(by = layer)`",
            )
            return False
        return True

    def _missing(self, use: s.Use, target: Target) -> None:
        line, _ = use.span.source.position(use.span.start)
        shown = written(target)
        definers = [
            name for name, t in self.names.transforms.items() if body_defines(t.body, target.name)
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
        self.problems.say(
            Code.E0207,
            f"`{use.name}` needs `{shown}`, which no stage before it defines",
            Label(use.name_span, f"needs {meaning}"),
            help_,
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
            self.problems.say(
                Code.E0220,
                f"`{use.name}` needs `{written(target)}`, which was computed before `{by}` "
                f"replaced `{letter}`",
                Label(use.name_span, f"`{letter}` is another space here"),
                f"compute `{target.name}` again between `{by}` and `{use.name}`",
            )
            return
        shown = ",".join(x.partition("@")[0] for x in have)
        current = {space: letter for letter, space in self.spaces.items()}
        shared = [
            (str(index), current[space])
            for index, space, other in zip(target.indices, have, want, strict=False)
            if not other and space in current
        ]
        self.problems.say(
            Code.E0215,
            f"`{use.name}` needs `{written(target)}`, and here it is `{target.name}[{shown}]`",
            Label(use.name_span, "other index spaces"),
            *tuple(
                f"`{index}` is the same space as `{letter}` here: write `{letter}` for it"
                for index, letter in shared
            ),
        )

    def _projects(self, use: s.Use, transform: s.TransformDef) -> bool:
        """A projection of `p` stands before `block_diagonal`, one of `i` and `o` after it."""
        found = [x for x in flat(transform.body) if isinstance(x, Project)]
        wrong = next((x for x in found if (x.old == "p") == self.layered), None)
        if wrong is None:
            return True
        what = "a layer's features" if wrong.old != "p" else "the whole model's parameters"
        right = "before" if wrong.old == "p" else "after"
        self.problems.say(
            Code.E0216,
            f"`{use.name}` projects {what} and stands {'after' if self.layered else 'before'} "
            "`block_diagonal`",
            use.span,
            f"put it {right} `block_diagonal(by = layer)`",
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

    def known(self, use: s.Use) -> bool:
        """Whether a stage of that name exists; else say what is wrong."""
        if use.name in STAGES or use.name in self.names.transforms:
            return True
        if use.name in SOURCES or use.name in self.names.curvatures:
            self.problems.say(
                Code.E0208,
                f"`{use.name}` is a curvature, not a stage",
                use.span,
                f"start a chain from it: `curvature mine = {use.name} |> …`",
            )
        else:
            known = (*STAGES, *self.names.transforms)
            self.problems.unknown(Code.E0209, "transformation", use.name, use.name_span, known)
        return False
