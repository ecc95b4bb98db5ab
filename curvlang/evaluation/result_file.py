"""`result.json` to and from `Result`: strict JSON, every field checked against the dataclasses.

JSON has no NaN and no infinity: NaN is written as null and infinity as "Infinity" or "-Infinity".
Where a field may be missing, null is read as None; where it is a number, as NaN.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Label
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import Source, Span
from curvlang.evaluation.result import SCHEMA, Result

VERDICTS = ("better", "worse", "cannot be told apart")
_AGAIN = "write the run again with `curvlang eval`"


def dumps(value: object) -> str:
    r"""JSON with sorted keys: the same value gives the same text.

    Raises:
        TypeError: Where something is no plain value (a tensor, an object).

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


def loads(text: str, name: str = "result.json") -> Result:
    """Read a result from its JSON text.

    Args:
        text: The content of `result.json`.
        name: What messages call it.

    Raises:
        SpecError: E0901 where it is not JSON, was written with another schema, or a field is
            missing, unknown or of another type; the message names the field.
    """
    try:
        found = json.loads(text, parse_constant=_constant)
    except json.JSONDecodeError as error:
        where = Span(Source(name, text), error.pos, min(error.pos + 1, len(text)))
        _refuse(f"`{name}` is not JSON", Label(where, error.msg))
    except ValueError as error:
        _refuse(f"`{name}` is not JSON: {error}")
    if not isinstance(found, dict) or "schema" not in found:
        _refuse(f"`{name}` is not a result: it has no `schema`")
    if found.pop("schema") != SCHEMA:
        _refuse(f"`{name}` was written with another schema; this version reads schema {SCHEMA}")
    result = decode(Result, found, "")
    assert isinstance(result, Result)
    _check(result)
    return result


def decode(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the type that a field asks for.

    Args:
        kind: A dataclass, `float`, `int`, `str`, `Any`, `X | None`, `tuple[X, ...]` or
            `Mapping[str, X]`.
        value: What JSON gave.
        where: The path of the field, for messages.
    """
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if kind in _SCALARS:
        return _SCALARS[kind](value, where)
    arguments = get_args(kind)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else decode(inner, value, where)
    if origin is tuple:
        items = value if isinstance(value, list) else _mismatch(where, "a list")
        return tuple(decode(arguments[0], item, f"{where}[{k}]") for k, item in enumerate(items))
    entries = value if isinstance(value, dict) else _mismatch(where, "an object")
    return {name: decode(arguments[1], item, f"{where}.{name}") for name, item in entries.items()}


def json_type(kind: Any) -> str:
    """How the documentation names a field's type.

    >>> json_type(tuple[float, ...]), json_type(int | None), json_type(Mapping[str, str])
    ('list of number', 'integer or null', 'object of text')
    """
    names = {float: "number", int: "integer", str: "text", Any: "any"}
    if kind in names:
        return names[kind]
    if is_dataclass(kind):
        return str(getattr(kind, "__name__", kind))
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin in (Union, types.UnionType):
            (inner,) = (argument for argument in arguments if argument is not type(None))
            return f"{json_type(inner)} or null"
        case origin if origin is tuple:
            return f"list of {json_type(arguments[0])}"
        case _:
            return f"object of {json_type(arguments[1])}"


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    found = value if isinstance(value, dict) else _mismatch(where, "an object")
    hints = get_type_hints(kind)
    names = [item.name for item in fields(kind)]
    dot = f"{where}." if where else ""
    for name in found:
        if name not in names:
            _refuse(f"`{dot}{name}` is not a field of the schema")
    for name in names:
        if name not in found:
            _refuse(f"`{dot}{name}` is missing")
    return kind(**{name: decode(hints[name], found[name], f"{dot}{name}") for name in names})


def _float(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if value in ("Infinity", "-Infinity"):
        return math.inf if value == "Infinity" else -math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        _mismatch(where, "a number")
    return float(value)


def _int(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        _mismatch(where, "an integer")
    return int(value)


def _str(value: Any, where: str) -> str:
    return value if isinstance(value, str) else _mismatch(where, "text")


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {float: _float, int: _int, str: _str}


def _check(result: Result) -> None:
    """What types cannot say: verdicts are words of the schema, indices point at something."""
    for k, comparison in enumerate(result.comparisons):
        if comparison.verdict not in VERDICTS:
            _mismatch(f"comparisons[{k}].verdict", "one of " + ", ".join(VERDICTS))
    for k, step in enumerate(result.steps):
        places = range(max(len(step.points), 1))
        if step.shared not in places or (step.best is not None and step.best not in places):
            _mismatch(f"steps[{k}]", "consistent: `shared` or `best` points outside `points`")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _mismatch(where: str, wanted: str) -> NoReturn:
    _refuse(f"`{where}` is not {wanted}" if where else f"the result is not {wanted}")


def _refuse(headline: str, *labels: Label) -> NoReturn:
    raise refusal(Code.E0901, headline, _AGAIN, labels=labels)
