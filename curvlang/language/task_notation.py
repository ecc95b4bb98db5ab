"""Tasks as a spec writes them, so that a drawn one can be kept and run again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from curvlang.language.chain import Part, TaskSpec, Value
from curvlang.language.registry import NONE, PARTS

NAME = re.compile(r"[^\W\d]\w*")
"""A word of the language; every other text stands in quotation marks."""


def task_notation(task: TaskSpec, name: str = "counterexample") -> str:
    """`task counterexample { … }`: data and model in full, of the training what is not default."""
    lines = [
        f"  data    {part_notation(task.data)}",
        f"  model   {part_notation(_without_files(task.model))}",
        f"  loss    {task.loss.name}",
        f"  train   {part_notation(Part(task.train.name, _changed(task.train)))}",
    ]
    for word, part in (("checkpoints", task.checkpoints), ("models", task.models)):
        if part is not None:
            lines.append(f"  {word:<7} {part_notation(part)}")
    return "\n".join([f"task {name} {{", *lines, "}"])


def _without_files(part: Part) -> Part:
    """The line without the names of files where there are none."""
    return replace(part, arguments={k: v for k, v in part.arguments.items() if v != NONE})


def value_notation(value: Value) -> str:
    """A value as the language reads it back, digit for digit."""
    match value:
        case bool():
            return "true" if value else "false"
        case tuple():
            return "[" + ", ".join(map(value_notation, value)) + "]"
        case float():
            return repr(value)
        case str():
            return value if NAME.fullmatch(value) else f'"{value}"'
        case _:
            return str(value)


def part_notation(part: Part) -> str:
    """A line of a task with all its arguments."""
    inside = ", ".join(f"{k} = {value_notation(v)}" for k, v in part.arguments.items())
    return f"{part.name}({inside})" if inside else part.name


def _changed(part: Part) -> Mapping[str, Value]:
    rules = PARTS["train"][part.name].parameters
    return {k: v for k, v in part.arguments.items() if v != rules[k].default}
