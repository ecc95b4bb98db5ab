"""Results of studies as files: `study.json`, and the same packed, `NAME.json.gz`.

A packed file has short JSON, numbers to seven digits, and no date: a result gives one content.
Files of earlier schemas are read; what they do not know is missing.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.evaluation.result import TaskSummary
from curvlang.evaluation.result_file import decode, plain
from curvlang.evaluation.study.study_result import SCHEMA, StudyResult

DIGITS = 7
_OLDEST = 2
"""The first schema that is read."""
_EARLIER: Mapping[type, Mapping[str, Any]] = {TaskSummary: {"origin": ""}}
"""Fields without a default that earlier schemas do not have."""


def packed_study(result: StudyResult) -> bytes:
    """The content of `NAME.json.gz`."""
    value = _rounded(plain(result.to_json()))
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def read_study(path: str | os.PathLike[str]) -> StudyResult:
    """Read a study's result, `study.json` or a packed one.

    Args:
        path: The file.

    Raises:
        SpecError: E0512 where it is missing, damaged, or not the result of a study.
    """
    place = Path(path)
    try:
        content = place.read_bytes()
        text = gzip.decompress(content) if place.suffix == ".gz" else content
        found = json.loads(text)
    except (OSError, EOFError, ValueError) as error:
        raise _refused(place, f"cannot be read: {error}") from error
    if not isinstance(found, dict) or not _known(found.pop("schema", None)):
        raise _refused(place, f"has no schema from {_OLDEST} to {SCHEMA}")
    try:
        result: StudyResult = decode(StudyResult, _completed(StudyResult, found))
    except SpecError as error:
        reason = error.diagnostics[0].headline
        raise _refused(place, f"is not the result of a study: {reason}") from error
    return result


def _known(schema: object) -> bool:
    return isinstance(schema, int) and _OLDEST <= schema <= SCHEMA


def _refused(path: Path, reason: str) -> SpecError:
    return refusal(
        Code.E0512,
        f"`{path}` {reason}",
        "name the `study.json` of a run folder, or a packed result",
        "or write it again: `curvlang study NAME --out FOLDER --report`",
    )


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case list():
            return [_rounded(item) for item in value]
        case _:
            return value


def _completed(kind: Any, value: Any) -> Any:
    """A JSON value with the fields that its dataclass has a default for, where they are missing."""
    if isinstance(value, list):
        inner = [x for x in _parts(kind) if x is not Ellipsis]
        return [_completed(inner[0], item) if len(inner) == 1 else item for item in value]
    if not isinstance(value, dict):
        return value
    for own in (kind, *_parts(kind)):
        if dataclasses.is_dataclass(own):
            hints = get_type_hints(own)
            known = {name: _completed(hints.get(name), item) for name, item in value.items()}
            return _defaults(own) | known
    values = _parts(kind)[1:]
    return {name: _completed(values[0] if values else None, x) for name, x in value.items()}


def _parts(kind: Any) -> tuple[Any, ...]:
    """What a type is made of, unions resolved: of `tuple[A, …] | None` it is A."""
    if isinstance(kind, types.UnionType):
        return tuple(
            part
            for one in get_args(kind)
            for part in ((one,) if get_origin(one) is None else _parts(one))
        )
    return get_args(kind)


def _defaults(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(_EARLIER.get(kind, {}))
    for item in dataclasses.fields(kind):
        if item.default is not dataclasses.MISSING:
            value = item.default
            found[item.name] = None if isinstance(value, float) and math.isnan(value) else value
        elif item.default_factory is not dataclasses.MISSING:
            found[item.name] = item.default_factory()
    return {name: list(x) if isinstance(x, tuple) else x for name, x in found.items()}
