"""`result.json` to and from `Result`: strict JSON, every field checked against the dataclasses.

JSON has no NaN and no infinity: NaN is written as null and infinity as "Infinity" or "-Infinity".
Where a field may be missing, null is read as None; where it is a number, as NaN.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label, SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import Source, Span
from curvlang.evaluation.result import SCHEMA, Result

VERDICTS = ("better", "worse", "cannot be told apart")
_AGAIN = "write the run again with `curvlang eval`"


def dumps(value: object) -> str:
    r"""JSON with sorted keys: the same value gives the same text.

    Raises:
        TypeError: Where something is not a plain value (a tensor, an object).

    >>> dumps({"b": float("nan"), "a": (1, 0.5)})
    '{\n  "a": [\n    1,\n    0.5\n  ],\n  "b": null\n}\n'
    """
    text = json.dumps(plain(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text + "\n"


def plain(value: object) -> Any:
    """Dictionaries, lists, text, finite numbers and None; NumPy scalars and paths are unwrapped."""
    match value:
        case None | bool() | str():
            return value
        case np.generic():
            return plain(value.item())
        case int():
            return value
        case float():
            return _number(value)
        case PurePath():
            return str(value)
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [plain(item) for item in value]
        case _:
            raise TypeError(f"`{type(value).__name__}` cannot be written as JSON")


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def loads(text: str | bytes, name: str = "result.json") -> Result:
    """Read a result from its JSON text.

    Args:
        text: The content of `result.json`.
        name: What messages call it.

    Raises:
        SpecError: E0901 where it is not JSON in UTF-8, was written with another schema, or a field
            is missing, unknown or of another type; the message names the field.
    """
    try:
        whole = text.decode("utf-8") if isinstance(text, bytes) else text
        found = json.loads(whole, parse_constant=_constant)
    except json.JSONDecodeError as error:
        where = Span(Source(name, error.doc), error.pos, min(error.pos + 1, len(error.doc)))
        raise _refusal(f"`{name}` is not JSON", Label(where, error.msg)) from error
    except UnicodeDecodeError as error:
        raise _refusal(f"`{name}` is not text in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _refusal(f"`{name}` is not JSON: {error}") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise _refusal(f"`{name}` is not a result: it has no `schema`")
    if (schema := found.pop("schema")) != SCHEMA:
        raise _refusal(f"`{name}` has schema {schema!r}; this version reads schema {SCHEMA}")
    result: Result = decode(Result, found)
    _check(result)
    return result


class _Number:
    """A number as JSON holds it: also null for NaN, and two texts for infinity."""

    def __init__(self, value: float) -> None:
        self.value = value


def decode(kind: Any, value: object) -> Any:
    """A JSON value as a dataclass: every field is there, has its type, and is one of the dataclass.

    Raises:
        SpecError: E0901 with the place of the field.
    """
    try:
        strict = msgspec.convert(value, _strict(kind), dec_hook=_number_read)
        plain_values = msgspec.to_builtins(strict, enc_hook=lambda number: number.value)
        return msgspec.convert(plain_values, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        where = place.strip(".`")
        raise _refusal(f"`{where}`: {reason}" if where else reason) from error


@cache
def _strict(kind: Any) -> Any:
    """A field's type with every dataclass as one that takes its fields and no others."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        required = [(item.name, _strict(hints[item.name])) for item in fields(kind)]
        return msgspec.defstruct(kind.__name__, required, forbid_unknown_fields=True)
    if kind is float:
        return _Number
    inner = tuple(map(_strict, get_args(kind)))
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return Union[inner]  # noqa: UP007
    return kind if origin is None else (dict if origin is Mapping else origin)[inner]


def _number_read(kind: type, value: object) -> _Number:
    if value is None:
        return _Number(math.nan)
    if value in ("Infinity", "-Infinity"):
        return _Number(math.inf if value == "Infinity" else -math.inf)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"Expected a number, got `{type(value).__name__}`")
    return _Number(float(value))


def _check(result: Result) -> None:
    """What types cannot say: verdicts are words of the schema, indices point at something."""
    for k, comparison in enumerate(result.comparisons):
        if comparison.verdict not in VERDICTS:
            raise _refusal(f"`comparisons[{k}].verdict` is not one of {', '.join(VERDICTS)}")
    for k, step in enumerate(result.steps):
        places = range(max(len(step.points), 1))
        if step.shared not in places or (step.best is not None and step.best not in places):
            raise _refusal(f"`steps[{k}]`: `shared` or `best` points outside `points`")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refusal(headline: str, *labels: Label) -> SpecError:
    return refusal(Code.E0901, headline, _AGAIN, labels=labels)
