"""The words for which a transform is checked, so that every branch of its choices is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label
from curvlang.diagnostics.suggestion import suggestion
from curvlang.language.syntax import nodes as s
from curvlang.language.syntax.problems import Problems

MOST_READINGS = 64
"""Readings of one transform."""
MOST_READ = 300_000
"""Operations of all readings of one transform together."""
ANOTHER = "\0"
"""Stands for any word that no `when` names."""

Options = Mapping[str, tuple[str, ...]]


def choices(
    definition: s.TransformDef | s.ScoreDef, size: int, problems: Problems
) -> Iterator[dict[str, str]]:
    """The words of each reading: all combinations where they are few, else every branch once.

    Args:
        definition: The transform.
        size: Operations of its body.
        problems: Collects diagnostics: E0236 where the readings are too many.
    """
    options = _options(definition, problems)
    count = prod(map(len, options.values()))
    if count <= MOST_READINGS and count * size <= MOST_READ:
        yield from (dict(zip(options, x, strict=True)) for x in product(*options.values()))
        return
    made = _cover(definition.body, options)
    if made is None or len(made) * size > MOST_READ:
        problems.append(_too_many(definition, None if made is None else len(made), size))
        made = [{}]
    first = {name: words[0] for name, words in options.items()}
    yield from (first | x for x in made)


def _options(definition: s.TransformDef | s.ScoreDef, problems: Problems) -> Options:
    """The words that each parameter can have, of those that a `when` asks for."""
    known = {p.name: p for p in definition.parameters}
    wanted: dict[str, set[str]] = {}
    for statement in _whens(definition.body):
        parameter = known.get(statement.parameter)
        if parameter is None:
            headline = f"`when` asks for `{statement.parameter}`, which is not a parameter here"
            help_ = suggestion(statement.parameter, known)
            problems.say(Code.E0218, headline, statement.span, *help_)
            continue
        if parameter.words and statement.word not in parameter.words:
            headline = f"`{statement.parameter}` is never `{statement.word}`"
            help_ = suggestion(statement.word, parameter.words)
            problems.say(Code.E0706, headline, statement.span, *help_)
        wanted.setdefault(statement.parameter, set()).add(statement.word)
    return {
        name: tuple(sorted(set(known[name].words) or (found | {ANOTHER})))
        for name, found in wanted.items()
    }


def _whens(body: Sequence[s.BodySyntax]) -> Iterator[s.When]:
    """Every choice; what stands inside one that asks for no parameter is left out with it."""
    for statement in body:
        match statement:
            case s.When(then=then, otherwise=otherwise):
                yield statement
                yield from _whens(then)
                yield from _whens(otherwise)
            case s.Repeat(body=inner):
                yield from _whens(inner)
            case _:
                pass


def _cover(body: Sequence[s.BodySyntax], options: Options) -> list[dict[str, str]] | None:
    """Few readings that take every branch that can be taken; None where they are too many."""
    made: list[dict[str, str]] = [{}]
    for wanted in _branches(body, options, {}):
        for reading in made:
            if all(reading.get(name, words[0]) in words for name, words in wanted.items()):
                break
        else:
            reading = {}
            made.append(reading)
            if len(made) > MOST_READINGS:
                return None
        for name, words in wanted.items():
            reading.setdefault(name, words[0])
    return made


def _branches(body: Sequence[s.BodySyntax], options: Options, inside: Options) -> Iterator[Options]:
    """For each branch the words with which it is taken, of every parameter that it depends on."""
    for statement in body:
        match statement:
            case s.Repeat(body=inner):
                yield from _branches(inner, options, inside)
            case s.When(parameter=name, word=word) if name in options:
                left = inside.get(name, options[name])
                for branch, words in (
                    (statement.then, tuple(x for x in left if x == word)),
                    (statement.otherwise, tuple(x for x in left if x != word)),
                ):
                    if words and branch:
                        yield {**inside, name: words}
                        yield from _branches(branch, options, {**inside, name: words})
            case _:
                pass


def _too_many(definition: s.TransformDef | s.ScoreDef, count: int | None, size: int) -> Diagnostic:
    readings = f"more than {MOST_READINGS}" if count is None else str(count)
    return Diagnostic(
        Code.E0236,
        f"the choices of `{definition.name}` take {readings} readings of {size} operations",
        (Label(definition.name_span, f"at most {MOST_READINGS} readings, {MOST_READ} operations"),),
        ("put what differs into transforms of its own",),
    )
