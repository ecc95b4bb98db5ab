"""Arguments that a spec gives to a built-in, checked against the parameters it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import label_at, refusal
from curvlang.diagnostics.source import NOWHERE, Span
from curvlang.language.chain import Part, Value
from curvlang.language.registry import Entry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a built-in.

    Args:
        type: `integer`, `integers`, `number`, `numbers`, `names`, `boolean` or `word`.
        default: Its value where the spec gives none; None where the spec must.
        allowed: The words there are; empty where any value of the type will do.
    """

    type: str
    default: Value | None
    allowed: tuple[str, ...] = ()


Signature = Mapping[str, Parameter]

_KINDS: Mapping[str, str] = {
    "int": "integer",
    "ints": "integers",
    "float": "number",
    "floats": "numbers",
    "bool": "boolean",
    "word": "word",
    "text": "word",
    "names": "names",
}


def signature(entry: Entry) -> Signature:
    """The parameters of something that ships, as its entry in the registry states them."""
    found: dict[str, Parameter] = {}
    for name, rule in entry.parameters.items():
        found[name] = Parameter(_KINDS[rule.type], rule.default, rule.words)
    return found


def _integer(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Value) -> bool:
    return _integer(value) or isinstance(value, float)


_TYPES: Mapping[str, Callable[[Value], bool]] = {
    "integer": _integer,
    "integers": lambda value: isinstance(value, tuple) and all(_integer(v) for v in value),
    "number": _number,
    "numbers": lambda value: isinstance(value, tuple) and all(_number(v) for v in value),
    "boolean": lambda value: isinstance(value, bool),
    "word": lambda value: isinstance(value, str),
    "names": lambda value: isinstance(value, tuple) and all(isinstance(v, str) for v in value),
}


def choose(table: Mapping[str, T], part: Part, what: str) -> T:
    """The entry that a part names.

    Raises:
        SpecError: E0411 at the part.
    """
    if part.name not in table:
        known = ", ".join(f"`{name}`" for name in table)
        raise refusal(
            Code.E0411,
            f"there is no {what} `{part.name}`",
            f"use one of {known}" if len(table) > 1 else f"use {known}",
            labels=label_at(part.span, f"unknown {what}"),
        )
    return table[part.name]


def arguments(part: Part, signature: Signature) -> dict[str, Value]:
    """All parameters with their values, defaults filled in.

    Raises:
        SpecError: E0412 at the part, for an unknown parameter or a value of another type.
    """
    for name, value in part.arguments.items():
        if name not in signature:
            known = ", ".join(f"`{key}`" for key in signature) or "none"
            raise _wrong(part, f"`{part.name}` has no parameter `{name}`", f"it takes {known}")
        _check_value(part, name, value, signature[name])
    found: dict[str, Value] = {}
    for name, p in signature.items():
        if name in part.arguments:
            found[name] = part.arguments[name]
        elif p.default is not None:
            found[name] = p.default
        else:
            raise _wrong(part, f"`{part.name}` needs `{name}`", f"write `{part.name}({name} = …)`")
    return found


def _check_value(part: Part, name: str, value: Value, parameter: Parameter) -> None:
    if not _TYPES[parameter.type](value):
        example = "…" if parameter.default is None else _show(parameter.default)
        raise _wrong(
            part,
            f"`{name}` of `{part.name}` takes {_an(parameter.type)}, not `{_show(value)}`",
            f"write for example `{name} = {example}`",
        )
    if parameter.allowed and value not in parameter.allowed:
        known = ", ".join(f"`{word}`" for word in parameter.allowed)
        raise _wrong(part, f"`{name}` cannot be `{_show(value)}`", f"use one of {known}")


def _wrong(part: Part, headline: str, repair: str) -> SpecError:
    return refusal(Code.E0412, headline, repair, labels=label_at(part.span, "in this line"))


def _an(type_name: str) -> str:
    nouns = {
        "integer": "an integer",
        "integers": "a list of integers",
        "numbers": "a list of numbers",
        "boolean": "true or false",
        "names": "a list of names",
    }
    return nouns.get(type_name, f"a {type_name}")


def _show(value: Value) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return "[" + ", ".join(_show(v) for v in value) + "]"
        case _:
            return str(value)


@contextmanager
def placed(span: Span) -> Iterator[None]:
    """Give refusals that have no place the place of the part that caused them."""
    try:
        yield
    except SpecError as error:
        found = [
            d
            if d.labels or span is NOWHERE
            else replace(d, labels=(Label(span, "asked for here"),))
            for d in error.diagnostics
        ]
        raise SpecError(found) from error
