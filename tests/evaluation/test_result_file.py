"""`result.json` against its documentation, and back into a `Result`."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.result import SCHEMA, Result
from curvlang.evaluation.result_file import dumps, loads
from tests.reporting.example import EXAMPLES, digits

PAGE = (Path(__file__).parents[2] / "docs" / "result.md").read_text("utf-8")


def documented():
    """Section -> field -> type, as the page's tables say."""
    found = {}
    for section in PAGE.split("\n### ")[1:]:
        name = section.split("\n", 1)[0].strip()
        body = section.split("\n## ")[0]
        found[name] = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", body, re.MULTILINE))
    return found


def json_type(kind):
    """How the page names a field's type: `list of number`, `integer or null`, `object of text`."""
    names = {float: "number", int: "integer", str: "text", Any: "any"}
    if kind in names:
        return names[kind]
    if is_dataclass(kind):
        return kind.__name__
    inner = [json_type(x) for x in get_args(kind) if x not in (type(None), ...)]
    if type(None) in get_args(kind):
        return f"{inner[0]} or null"
    return f"list of {inner[0]}" if get_origin(kind) is tuple else f"object of {inner[-1]}"


def classes(kind, found):
    """Every dataclass that a result can hold, by name."""
    if is_dataclass(kind) and kind.__name__ not in found:
        found[kind.__name__] = kind
        for hint in get_type_hints(kind).values():
            classes(hint, found)
    for inner in get_args(kind):
        classes(inner, found)
    return found


def test_every_field_is_documented_with_its_type_and_nothing_else_is():
    held = {
        name: {f.name: json_type(get_type_hints(kind)[f.name]) for f in fields(kind)}
        for name, kind in classes(Result, {}).items()
    }
    assert documented() == held


def test_the_page_names_the_schema():
    assert f"## Schema {SCHEMA}\n" in PAGE


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_read_back(name):
    text = dumps(EXAMPLES[name]().to_json())
    assert dumps(loads(text).to_json()) == text
    assert not re.search(r"\bNaN\b|[^\"]Infinity", text)


def paths(value, here=()):
    """The place of every object of a document."""
    if isinstance(value, dict):
        yield here
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from paths(item, (*here, key))


FREE = {"arguments", "defaults", "recipe", "structures"}
"""Objects of any keys."""


def test_a_missing_and_an_unknown_field_are_named():
    whole = digits().to_json()
    text = dumps(whole)
    for path in paths(json.loads(text)):
        if FREE & set(path):
            continue
        for change in ("missing", "unknown"):
            data = json.loads(text)
            place = data
            for key in path:
                place = place[key]
            if change == "unknown":
                name, place["surplus"] = "surplus", 1
            else:
                name = next(k for k in place if k != "schema")
                del place[name]
            with pytest.raises(SpecError) as caught:
                loads(json.dumps(data))
            (problem,) = caught.value.diagnostics
            assert problem.code == "E0901"
            assert name in problem.headline


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "`result.json` has schema 99; this version reads schema 2"),
        ({"schema": "2"}, "has schema '2'"),
        ({"name": 3}, "`name`: Expected `str`, got `int`"),
        ({"sweep": [0.1, True]}, "`sweep[1]`: Expected a number, got `bool`"),
        ({"sweep": [0.1, "NaN"]}, "`sweep[1]`: Expected a number, got `str`"),
        ({"steps": {}}, "`steps`: Expected `array`, got `object`"),
        ({"ceiling": 0.7}, "`ceiling`: Expected `object | null`, got `float`"),
    ],
)
def test_wrong_values_are_named(change, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        loads(json.dumps({**json.loads(dumps(digits().to_json())), **change}))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"schema": 2, "name": NaN}', b"\xff", b"\xff\xfe{\0", "[" * 100_000],
)
def test_what_is_not_a_result_is_refused(text):
    with pytest.raises(SpecError, match="E0901"):
        loads(text)


def test_numbers_that_json_does_not_have_are_read_where_numbers_stand():
    data = json.loads(dumps(EXAMPLES["digits"]().to_json()))
    data["ceiling"] = {"estimate": None, "low": "-Infinity", "high": "Infinity"}
    data["sweep"] = [1, 0.5]
    found = loads(json.dumps(data))
    assert math.isnan(found.ceiling.estimate)
    assert (found.ceiling.low, found.ceiling.high) == (-math.inf, math.inf)
    assert [*map(type, found.sweep)] == [float, float]
    data["ceiling"] = None
    assert loads(json.dumps(data)).ceiling is None
