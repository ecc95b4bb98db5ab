"""Arguments checked against the table of parameters: from a spec, a command line, or Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, Label, SpecError
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.diagnostics.suggestion import suggestion
from curvlang.language.bodies.values import show, value
from curvlang.language.chain import Value
from curvlang.language.partition import is_block_word
from curvlang.language.registry.entry import Entry, Parameter
from curvlang.language.registry.kind_words import in_words
from curvlang.language.registry.kinds import (
    Blocks,
    Choice,
    CurvatureName,
    OtherTypeError,
    misses,
    taken,
)
from curvlang.language.syntax.nodes import Argument, Use
from curvlang.language.syntax.problems import Problems


def checked(name: str, given: object, parameter: Parameter, span: Span = NOWHERE) -> Value:
    """The value of one parameter, as its kind has it.

    Args:
        name: Of the parameter.
        given: Its value, from a text or from Python.
        parameter: What it has to be.
        span: Where it is written; nowhere for a value from Python.

    Raises:
        SpecError: E0705 for another type, E0706 for an unknown word, E0707 for a number out of range.
    """
    shown = f"`{name} = {_shown(given)}`"
    default = parameter.default
    usual = in_words(parameter.kind).example if default is None else default
    notes = (parameter.note,) if parameter.note else ()
    try:
        found = taken(given, parameter.kind)
    except OtherTypeError:
        wanted = _noun(parameter)
        repair = f"for example {_written(name, usual, span)}"
        problem = _problem(
            Code.E0705, f"{shown} is not {wanted}", span, f"expected {wanted}", repair
        )
        raise SpecError(replace(problem, notes=notes)) from None
    words = in_words(parameter.kind).words
    if _unknown_word(found, parameter):
        known = ", ".join(f"`{w}`" for w in words)
        problem = _problem(Code.E0706, f"{shown} is not one of {known}", span)
        near = suggestion(str(found), words)
        raise SpecError(replace(problem, help=near, notes=notes))
    wrong = misses(found, parameter.kind)
    if wrong:
        repair = f"{'for example' if default is None else 'the default is'} {_written(name, usual, span)}"
        problem = _problem(Code.E0707, f"{shown} is out of range", span, f"must be {wrong}", repair)
        raise SpecError(replace(problem, notes=notes))
    return found


def _unknown_word(found: Value, parameter: Parameter) -> bool:
    match parameter.kind:
        case Choice(words=words):
            return found not in (words or (found,))
        case Blocks():
            return isinstance(found, str) and not is_block_word(found)
        case _:
            return False


def number(name: str, given: object, parameter: Parameter) -> float:
    """The value of one parameter whose kind is a real number, given in Python.

    Raises:
        SpecError: As `checked`.
    """
    found = checked(name, given, parameter)
    assert isinstance(found, float)
    return found


def _shown(given: object) -> str:
    """A value for a message: a text that is not a name stands in quotes."""
    text = isinstance(given, str) and not given.isidentifier() and not is_block_word(given)
    return f'"{given}"' if text else show(given)


def _noun(parameter: Parameter) -> str:
    named = isinstance(parameter.kind, CurvatureName) and parameter.default is not None
    return in_words(parameter.kind).noun + (f", or `{show(parameter.default)}`" if named else "")


def _written(name: str, default: Value, span: Span) -> str:
    """An argument as the language writes it; as Python does where the value came from there."""
    return f"`{name}={default!r}`" if span is NOWHERE else f"`{name} = {show(default)}`"


def _problem(code: Code, headline: str, span: Span, must: str = "", repair: str = "") -> Diagnostic:
    """What must hold is said at the place; where there is none, it is the first repair."""
    label = Label(span, must)
    if span is NOWHERE:
        return Diagnostic(
            code, headline, (), tuple(x for x in (f"it {must}", repair) if x != "it ")
        )
    return Diagnostic(code, headline, (label,), (repair,) if repair else ())


def completed(
    owner: str, given: Mapping[str, object], entry: Entry, span: Span = NOWHERE
) -> dict[str, Value]:
    """All parameters of an entry with their values, defaults filled in.

    Args:
        owner: What has the parameters, for messages.
        given: Values by name; other names stay as they are where the entry is open.
        entry: What it takes.
        span: Where it is written; nowhere for values from Python.

    Raises:
        SpecError: E0703 for an unknown name, E0704 for a missing value, and as `checked`.
    """
    found: dict[str, Value] = dict(entry.defaults)
    problems = Problems()
    for name, raw in given.items():
        parameter = entry.parameters.get(name)
        if parameter is None and entry.open:
            found[name] = raw  # type: ignore[assignment]
        elif parameter is None:
            problems.append(_unknown(owner, name, entry, span))
        else:
            try:
                found[name] = checked(name, raw, parameter, span)
            except SpecError as error:
                problems += error.diagnostics
    problems += _missing(owner, given, entry, span) or _alone(found, entry, span)
    if problems:
        raise SpecError(problems)
    return found


def named(kind: str, name: str, table: Mapping[str, Entry], span: Span = NOWHERE) -> Entry:
    """The entry of that name.

    Raises:
        SpecError: E0715 where there is none.
    """
    if not isinstance(name, str) or name not in table:
        problem = _problem(Code.E0715, f"unknown {kind} `{name}`", span)
        raise SpecError(replace(problem, help=suggestion(str(name), table)))
    return table[name]


def arguments(
    use: Use, entry: Entry, scope: Mapping[str, Value], problems: Problems
) -> dict[str, Value]:
    """All parameters of an entry with the values that a spec writes, defaults filled in.

    Args:
        use: The name and its arguments.
        entry: What it takes.
        scope: Parameters of the surrounding definition, by name.
        problems: Collects diagnostics.
    """
    found: dict[str, Value] = dict(entry.defaults)
    seen: dict[str, Span] = {}
    for written in use.arguments:
        # A text in front stands for the parameter that the entry names.
        argument = written if written.name else replace(written, name=entry.first)
        if argument.name in seen:
            headline, first = f"`{argument.name}` is given twice", seen[argument.name]
            problems.twice(Code.E0702, headline, argument.span, first, "leave one out")
            continue
        seen[argument.name] = argument.span
        made = _argument(use.name, argument, entry, scope, problems)
        if made is not None:
            found[argument.name] = made
    problems += _missing(use.name, seen, entry, use.span) or _alone(found, entry, use.span)
    return found


def _argument(
    owner: str, argument: Argument, entry: Entry, scope: Mapping[str, Value], problems: Problems
) -> Value | None:
    """One argument's value; None (and a diagnostic) where something is wrong."""
    parameter = entry.parameters.get(argument.name)
    if parameter is None and not (entry.open and argument.name):
        problems.append(_unknown(owner, argument.name, entry, argument.span))
        return None
    made = value(argument.value, scope, problems)
    if made is None or parameter is None:
        return made
    try:
        return checked(argument.name, made, parameter, argument.span)
    except SpecError as error:
        problems += error.diagnostics
        return None


def _unknown(owner: str, name: str, entry: Entry, span: Span) -> Diagnostic:
    help_ = suggestion(name, entry.parameters) or (f"`{owner}` takes no arguments",)
    headline = f"has no parameter `{name}`" if name else "takes no text without a name"
    return replace(_problem(Code.E0703, f"`{owner}` {headline}", span), help=help_)


def _missing(owner: str, given: Mapping[str, object], entry: Entry, span: Span) -> list[Diagnostic]:
    lacking = (k for k, p in entry.parameters.items() if p.default is None and k not in given)
    return [
        _problem(
            Code.E0704,
            f"`{owner}` needs a value for `{name}`",
            span,
            repair=f"write `{owner}({name} = …)`",
        )
        for name in lacking
    ]


def _alone(values: Mapping[str, Value], entry: Entry, span: Span) -> list[Diagnostic]:
    """Parameters that say something only with another one, where that is 0."""
    stated = (
        k for k, p in entry.parameters.items() if p.needs and values[k] and not values[p.needs]
    )
    return [
        _problem(
            Code.E0760, f"`{name}` needs `{other}`", span, repair=f"give `{other}`, or leave it out"
        )
        for name in stated
        if (other := entry.parameters[name].needs)
    ]


class _Open:
    """No value: the table has one."""

    def __repr__(self) -> str:
        return "…"


OPEN: Any = _Open()
"""Default of a field that the table fills in."""


def settle(made: object, owner: str, entry: Entry) -> None:
    """Check the fields of a new frozen dataclass that are parameters, and fill in those left open.

    Args:
        made: What has just been made.
        owner: What has the parameters, for messages.
        entry: What they are.

    Raises:
        SpecError: As `completed`.
    """
    stated = {n: v for n in entry.parameters if (v := getattr(made, n)) is not OPEN}
    for name, found in completed(owner, stated, entry).items():
        object.__setattr__(made, name, found)
