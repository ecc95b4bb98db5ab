"""Laws, checked: curvatures resolved, words known, conditions that leave a task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir.score_program import DOUBTS
from curvlang.language.chain import (
    Comparison,
    Curvature,
    Law,
    LawStatement,
    Nearness,
    Property,
    Quantity,
    Relation,
    Space,
)
from curvlang.language.checking import conditions as sp
from curvlang.language.checking.measures import Measures, kind_of
from curvlang.language.law import (
    DEFAULT_BY,
    DEFAULT_SCORE,
    DEFAULT_WITHIN,
    PROPERTIES,
    drops_residual,
    property_text,
    sampled,
    with_columns,
)
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

MOST_LAWS = 1_000
"""Laws of a file, one for each curvature and property; each is searched for minutes."""
Resolve = Callable[[str], Curvature | None]
"""The curvature of a name; None where it is known and has been found wrong."""


@dataclass(slots=True)
class LawChecker:
    """Checks the laws of one file.

    Args:
        resolve: Finds curvatures by name.
        known: Names of all curvatures there are.
        own: Names of the curvatures that the file defines.
        scores: The scores there are: each is a measure of a curvature.
        problems: Collects diagnostics.
        inverses: All inverses there are: a law may put their names around a curvature.
    """

    resolve: Resolve
    known: Collection[str]
    own: Sequence[str]
    scores: Mapping[str, s.ScoreDef] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    inverses: Mapping[str, s.InverseDef] = field(default_factory=dict)
    _count: int = 0

    def laws(self, item: s.LawDef) -> tuple[Law, ...]:
        """The laws that an item states: one for each curvature and property it names."""
        if not self._takes(item):
            return ()
        before = len(self.problems)
        space, columns = self._conditions(item)
        statements = self._statements(item)
        if len(self.problems) == before:
            self._columns(item, statements, columns)
            space = self._labels(item, statements, space)
        if len(self.problems) > before:
            return ()
        made = [self._law(item, x, space, columns) for x in statements]
        bound = self._bound(item, made)
        return tuple(replace(law, bound=bound or _default(law)) for law in made)

    def _takes(self, item: s.LawDef) -> bool:
        """Count the laws of an item in; whether the file has few enough."""
        before = self._count
        match item.claim:
            case s.PropertyClaim(subject=subject, words=words):
                self._count += len(words) * (1 if subject is not None else len(self.own))
            case _:
                self._count += 1
        # Reported once: the laws after it are too many for the same reason.
        if before <= MOST_LAWS < self._count:
            self.problems.say(
                Code.E0119,
                f"a file states at most {MOST_LAWS} laws, one for each curvature and property",
                item.span,
                f"name the curvatures that a law is about: `law {next(iter(self.known))} is …`",
            )
        return self._count <= MOST_LAWS

    def _law(
        self, item: s.LawDef, statement: LawStatement, space: Space, columns: str | None
    ) -> Law:
        text = _one_line(item.span).removeprefix("law ")
        if isinstance(statement, Property):
            _, when, rest = text.partition(" when ")
            text = f"{property_text(statement)}{when}{rest}"
        return Law(
            _with_columns(statement, columns),
            space,
            text,
            blocks=item.blocks,
            columns=columns,
            span=item.span,
        )

    def _bound(self, item: s.LawDef, made: Sequence[Law]) -> float | None:
        """`within 1e-8` where all tasks obey, `by 1e-3` where one is enough."""
        if item.bound is None or not made:
            return None
        word, number = item.bound
        wanted = "by" if made[0].exists else "within"
        if not word.text.startswith(wanted):
            why = "threshold that one task must pass" if made[0].exists else "tolerance"
            self.problems.say(
                Code.E0746, f"this law has a {why}", word.span, f"write `{wanted} {number:g}`"
            )
        elif not number > 0:
            self.problems.say(
                Code.E0746, "a bound is above 0", word.span, "leave it out for the default"
            )
        return number

    # Statements ------------------------------------------------------------------------------

    def _statements(self, item: s.LawDef) -> list[LawStatement]:
        match item.claim:
            case s.PropertyClaim(subject=subject, words=words, negated=negated):
                return self._properties(item, subject, words, negated)
            case s.RelationClaim(left=left, relation=relation, right=right):
                sides = [self._measured(left), self._measured(right)]
                if sides[0] is None or sides[1] is None:
                    return []
                made = Comparison(sides[0], Relation(relation), sides[1])
                self._compare(item, made, left, right)
                return [made]
            case s.NearnessClaim(subject=first, target=target, other=other, negated=negated):
                found = [self._quantity(x) for x in (first, target, other)]
                if any(x is None for x in found):
                    return []
                a, b, c = (x for x in found if x is not None)
                return [Nearness(a, b, c, negated)]

    def _properties(
        self, item: s.LawDef, subject: s.Word | None, words: tuple[s.Word, ...], negated: bool
    ) -> list[LawStatement]:
        for word in words:
            if word.text not in PROPERTIES:
                self.problems.unknown(Code.E0740, "law", word.text, word.span, tuple(PROPERTIES))
            elif negated and word.text != "positive_semidefinite":
                self.problems.say(Code.E0749, f"`{word.text}` holds for every curvature", word.span, "only `is not positive_semidefinite` can be meant")  # fmt: skip
        if subject is None and not self.own:
            self.problems.say(Code.E0747, "this law is about every curvature of the file, and it defines none", item.span, f"name one: `law {next(iter(self.known))} is symmetric`")  # fmt: skip
        names = [s.Word(x, item.span) for x in self.own] if subject is None else [subject]
        found = [self._quantity(name) for name in names]
        return [Property(q, w.text, negated) for q in found if q is not None for w in words]

    def _measured(self, measured: s.Measurement) -> Quantity | None:
        found = self._quantity(measured.curvature)
        maker = Measures(self.scores, self.inverses, self._quantity, self.problems)
        return maker.quantity(measured, found)

    def _quantity(self, word: s.Word) -> Quantity | None:
        if word.text not in self.known:
            self.problems.unknown(Code.E0206, "curvature", word.text, word.span, tuple(self.known))
            return None
        found = self.resolve(word.text)
        return None if found is None else Quantity(word.text, found)

    def _compare(
        self, item: s.LawDef, made: Comparison, left: s.Measurement, right: s.Measurement
    ) -> None:
        """Sides of one kind; sampled labels where a law states a mean over them."""
        shapes = [kind_of(made.left), kind_of(made.right)]
        if shapes[0] != shapes[1]:
            self.problems.say(Code.E0743, f"`{made.left}` is {shapes[0]} and `{made.right}` is {shapes[1]}", right.span, "put the same measure on both sides")  # fmt: skip
        if item.blocks and shapes[0] != "a matrix":
            self.problems.say(Code.E0743, f"`in each block` compares matrices, and `{made.left}` is {shapes[0]}", left.span, "leave `in each block` out")  # fmt: skip
        if made.relation is Relation.AVERAGES_TO and not sampled(made.left.curvature):
            self.problems.say(Code.E0745, f"`{made.left.name}` draws nothing that could be averaged", left.span, "its chain needs `drop_residual(fisher = mc)`; else write `equals`")  # fmt: skip

    # Conditions ------------------------------------------------------------------------------

    def _conditions(self, item: s.LawDef) -> tuple[Space, str | None]:
        space, columns = sp.everything(), None
        for condition in item.conditions:
            if not self._known(condition):
                continue
            name, value = condition.subject.text, condition.value.text
            if name == "columns":
                columns = value
            elif condition.sign == "is":
                space = sp.word(space, name, value, condition.negated)
            else:
                space = sp.count(space, name, condition.sign, int(float(value)))
            if space.empty:
                most = sp.MOST.get(name)
                self.problems.say(Code.E0744, "no task meets these conditions", condition.span, f"`{name}` is at most {most} in a drawn task" if most else "leave one out")  # fmt: skip
                break
        return space, columns

    def _labels(self, item: s.LawDef, statements: Sequence[LawStatement], space: Space) -> Space:
        """The tasks that have probabilities of labels, where a score reads them."""
        scores = [q.score for x in statements for q in Law(x, space, "").quantities]
        read = [s for s in scores if s and any(x.name in DOUBTS for x in s.needs)]
        if not read:
            return space
        found = sp.word(space, "loss", "cross_entropy", False)
        if found.empty:
            self.problems.say(Code.E0744, "no task meets these conditions", item.span, f"`{read[0].name}` reads the probability of a label, which `cross_entropy` has")  # fmt: skip
        return found

    def _known(self, condition: s.ConditionDef) -> bool:
        name, value = condition.subject, condition.value
        counts = condition.sign != "is"
        if name.text not in sp.MOST and name.text not in sp.WORDS:
            self.problems.unknown(
                Code.E0742,
                "condition",
                name.text,
                name.span,
                (*sp.MOST, *(w for w in sp.WORDS if w not in sp.MOST)),
            )
        elif counts and name.text not in sp.MOST:
            words = sp.WORDS[name.text]
            self.problems.say(Code.E0743, f"`{name.text}` is a word, not a number", condition.span, f"write for example `{name.text} is {words[0]}`")  # fmt: skip
        elif counts and not float(value.text).is_integer():
            self.problems.say(
                Code.E0743, f"`{name.text}` is a whole number", value.span, "round it"
            )
        elif not counts and name.text not in sp.WORDS:
            self.problems.say(Code.E0743, f"`{name.text}` is a number", condition.span, f"write for example `{name.text} == 1`")  # fmt: skip
        elif not counts and value.text not in sp.WORDS[name.text]:
            words = sp.WORDS[name.text]
            known = suggestion(value.text, words)
            self.problems.say(
                Code.E0743, f"`{name.text}` is never `{value.text}`", value.span, *known
            )
        elif name.text == "columns" and condition.negated:
            self.problems.say(
                Code.E0743, "columns are of one kind", condition.span, "name it without `not`"
            )
        else:
            return True
        return False

    def _columns(
        self, item: s.LawDef, statements: Sequence[LawStatement], columns: str | None
    ) -> None:
        if columns is None:
            return
        named = [q.curvature for x in statements for q in Law(x, Space(), "").quantities]
        at = next(c for c in item.conditions if c.subject.text == "columns")
        if not any(drops_residual(c) for c in named):
            self.problems.say(Code.E0745, "none of these curvatures has columns", at.span, "columns come with `drop_residual`")  # fmt: skip
        drawn = Relation.AVERAGES_TO
        if any(isinstance(x, Comparison) and x.relation is drawn for x in statements):
            self.problems.say(Code.E0745, f"{columns} columns leave nothing to average", at.span, "write `equals`, or leave the condition out")  # fmt: skip


def _default(law: Law) -> float:
    match law.statement:
        case Comparison(relation=Relation.AVERAGES_TO):
            return DEFAULT_SCORE
        case _:
            return DEFAULT_BY if law.exists else DEFAULT_WITHIN


def _with_columns(statement: LawStatement, columns: str | None) -> LawStatement:
    """The statement about the same chains with other columns."""
    if columns is None:
        return statement

    def other(quantity: Quantity) -> Quantity:
        return replace(quantity, curvature=with_columns(quantity.curvature, columns))

    match statement:
        case Property(subject=subject):
            return replace(statement, subject=other(subject))
        case Comparison(left=left, right=right):
            return replace(statement, left=other(left), right=other(right))
        case Nearness(subject=subject, target=target, other=third):
            return replace(
                statement, subject=other(subject), target=other(target), other=other(third)
            )


def _one_line(span: Span) -> str:
    """The text of a law without its comments and line breaks."""
    return " ".join(" ".join(x.partition("#")[0] for x in span.text.splitlines()).split())
