"""`repeat COUNT { … }`: how often, and everything that can be wrong with it.

A repetition is unrolled when a stage is specialised, so that nothing after it knows of rounds: the
names of the last round are what the statements after it read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, assert_never

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.source import Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.ir.expr import Project, Ref, Space, Yield
from curvlang.ir.indices import walk
from curvlang.language.bodies.values import value
from curvlang.language.chain import Value
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

MOST_ROUNDS = 100
"""Rounds of a repetition, with those around it: each may be a pass over the data."""
CHECKED_ROUNDS = 2
"""Rounds in which a body is checked: the first reads what stands before it, the second itself."""


def rounds(repeat: s.Repeat, given: Mapping[str, Value], most: int = MOST_ROUNDS) -> int:
    """How often a body is unrolled; a count that is refused elsewhere counts as `most`."""
    found = value(repeat.count, given, Problems())
    whole = isinstance(found, int) and not isinstance(found, bool)
    return min(found, most) if whole and found > 0 else min(most, CHECKED_ROUNDS)  # type: ignore[type-var,operator,return-value]


def check_repeats(definition: s.TransformDef | s.ScoreDef) -> list[Diagnostic]:
    """Counts, names and statements of every repetition, with the defaults of the parameters."""
    known = {p.name: p for p in definition.parameters}
    defaults: dict[str, Value] = {}
    for parameter in definition.parameters:
        made = None if parameter.default is None else value(parameter.default, {}, Problems())
        if made is not None:
            defaults[parameter.name] = made
    problems = Problems()
    for repeat in repeats(definition.body):
        problems += _names(repeat, known)
        problems += [_inside(x, repeat) for x in _once(repeat.body)]
    return problems or check_rounds(definition.body, defaults, {})


def check_rounds(
    body: Sequence[s.BodySyntax],
    given: Mapping[str, Value],
    places: Mapping[str, Span],
    outer: int = 1,
) -> list[Diagnostic]:
    """Whether every count is a whole number of rounds, with the values that a stage is given.

    Args:
        body: Statements of a transform.
        given: Values of its parameters; a count with an unknown one is left alone.
        places: Where a value is given, by name of its parameter.
        outer: Rounds of the repetitions around.
    """
    problems = Problems()
    for repeat in repeats(body, nested=False):
        read = [x.name for x in walk(repeat.count) if isinstance(x, Ref)]
        if any(name not in given for name in read):
            continue
        found = Problems()
        count = value(repeat.count, given, found)
        place = next((places[name] for name in read if name in places), None)
        if found or count is None:
            problems += found
        elif not isinstance(count, int) or isinstance(count, bool) or count < 1:
            problems.append(_count(f"{_shown(count)} is not a number of rounds", repeat, place))
        elif count * outer > MOST_ROUNDS:
            inside = f" inside {outer}" if outer > 1 else ""
            problems.append(_count(f"{count}{inside} rounds are too many", repeat, place))
        else:
            problems += check_rounds(repeat.body, given, places, outer * count)
    return problems


def repeats(body: Sequence[s.BodySyntax], *, nested: bool = True) -> Iterator[s.Repeat]:
    """The repetitions of a body, through its choices; with `nested` also those inside others."""
    for statement in body:
        match statement:
            case s.Repeat():
                yield statement
                if nested:
                    yield from repeats(statement.body)
            case s.When(then=then, otherwise=otherwise):
                yield from repeats((*then, *otherwise), nested=nested)
            case _:
                pass


Once: TypeAlias = Yield | Space | Project
"""Statements that a transform has once: they stand outside of rounds."""


def _once(body: Sequence[s.BodySyntax]) -> Iterator[Once]:
    for statement in body:
        match statement:
            case Yield() | Space() | Project():
                yield statement
            case s.When(then=then, otherwise=otherwise):
                yield from _once((*then, *otherwise))
            case _:
                # A repetition inside is one of its own.
                pass


def _names(repeat: s.Repeat, known: Mapping[str, s.ParameterSyntax]) -> Iterator[Diagnostic]:
    whole = tuple(name for name, p in known.items() if p.type == "int")
    for node in walk(repeat.count):
        if not isinstance(node, Ref) or node.name in whole:
            continue
        if node.name in known:
            headline = f"the rounds of `repeat` are a whole number, and `{node.name}` is not one"
            help_: tuple[str, ...] = (f"declare `{node.name}: int = …`",)
        else:
            headline = f"`repeat` asks for `{node.name}`, which is not a parameter here"
            help_ = suggestion(node.name, whole) or (f"add a parameter `{node.name}: int = 10`",)
        yield Diagnostic(Code.E0232, headline, (Label(node.span, "how many rounds?"),), help_)


def _inside(found: Once, repeat: s.Repeat) -> Diagnostic:
    match found:
        case Yield():
            word, help_ = "yield", "a transform yields once: put it after the closing brace"
        case Space():
            word, help_ = "space", "a space is made once: put it before `repeat`"
        case Project():
            word, help_ = "project", "a transform projects once: put it after the closing brace"
        case _:
            assert_never(found)
    head = Span(repeat.span.source, repeat.span.start, repeat.count.span.end)
    return Diagnostic(
        Code.E0233,
        f"a `{word}` stands inside `repeat`",
        (Label(found.span, "would stand in every round"), Label(head, "repeated here")),
        (help_,),
    )


def _count(headline: str, repeat: s.Repeat, place: Span | None) -> Diagnostic:
    given = () if place is None else (Label(place, "given here"),)
    labels = (*given, Label(repeat.count.span, "how many rounds"))
    help_ = f"`repeat` takes 1 to {MOST_ROUNDS} rounds, those of repetitions around it multiplied"
    return Diagnostic(Code.E0231, headline, labels, (help_,))


def _shown(count: Value) -> str:
    return f"{count:g}" if isinstance(count, int | float) else f"`{count}`"
