"""Verdicts of `curvlang test` as a table, as failures with their counterexamples, and as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.language.chain import Property, Spec, TaskSpec
from curvlang.language.law import PROPERTIES
from curvlang.language.uses import task_in
from curvlang.testing.check import Verdict

LARGEST_TASK = 64
"""Examples of a task that laws are checked on: the direct reading forms every product."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What was asked for: the spec as given, tasks drawn for each law, or the one task."""

    given: str
    examples: int
    task: str | None


def seed_of(given: str) -> int:
    """The seed of an option: a whole number, or a fresh one for `random`."""
    if given == "random":
        return secrets.randbelow(2**31)
    if not given.isdecimal():
        raise refusal(
            Code.E0708, f"`--seed {given}` is no seed", "give a whole number, or `random`"
        )
    return int(given)


def task_of(spec: Spec, given: str | None) -> TaskSpec | None:
    """The task of an option, small enough for the direct reading."""
    if given is None:
        return None
    task = task_in(spec, given)
    if task.data.name != "random" or int(str(task.data.arguments["examples"])) > LARGEST_TASK:
        raise refusal(
            Code.E0751,
            f"`{given}` is too large for laws",
            f"take `data random(examples = …)` with at most {LARGEST_TASK} examples",
        )
    return task


def words_of(heading: Heading, verdicts: Sequence[Verdict], quiet: bool) -> str:
    """The table, one line for each law, and a paragraph for each failure."""
    lines = [] if quiet else [_title(heading, verdicts)]
    width = min(64, max((len(v.law.text) for v in verdicts), default=0))
    for verdict in verdicts:
        if not quiet or not verdict.holds:
            lines.append(_line(verdict, width))
        if not verdict.holds:
            lines += [f"      {x}".rstrip() for x in _failure(heading, verdict)]
    return "\n".join([*lines, ""]) if lines else ""


def _title(heading: Heading, verdicts: Sequence[Verdict]) -> str:
    failed = sum(not v.holds for v in verdicts)
    count = f"{len(verdicts)} law{'s' if len(verdicts) != 1 else ''}"
    where = f"on the task {heading.task}" if heading.task else f"seed {verdicts[0].seed}"
    return f"{heading.given}: {count}, {f'{failed} failed' if failed else 'all hold'} ({where})"


def _line(verdict: Verdict, width: int) -> str:
    mark = "–" if verdict.note else "✓" if verdict.holds else "✗"
    text = verdict.law.text.ljust(width)
    if verdict.note:
        return f"  {mark} {text}  {verdict.note}"
    tasks = f"{verdict.tried} task{'s' if verdict.tried != 1 else ''}"
    return f"  {mark} {text}  {tasks.rjust(9)}  {_margin(verdict)}"


def _margin(verdict: Verdict) -> str:
    size, bound = _number(verdict.worst.size), f"{verdict.law.bound:g}"
    if verdict.law.exists:
        return f"{size} > {bound}" if verdict.holds else f"{size} at most, {bound} wanted"
    if not verdict.holds:
        return f"{size} > {bound}"
    open_ = f", on {verdict.undetermined} rounding decides" if verdict.undetermined else ""
    return f"{size} ≤ {bound}{open_}"


def _number(size: float) -> str:
    return f"{size:.2g}" if isfinite(size) else "not finite"


def _failure(heading: Heading, verdict: Verdict) -> list[str]:
    law, counter = verdict.law, verdict.counterexample
    found = [f"measured {_number(verdict.worst.size)}: {verdict.worst.where}".rstrip(": ")]
    if isinstance(law.statement, Property) and law.universal:
        found.insert(0, PROPERTIES[law.statement.word])
    if counter is not None:
        found.append("the task that comes closest:" if law.exists else "on the task")
        found += [f"  {x}" for x in counter.task.split("\n")]
        if counter.batch is not None:
            found.append(f"in batches of {counter.batch}")
        if counter.order is not None:
            found.append(f"with its examples in the order {list(counter.order)}")
    if law.universal and isinstance(law.statement, Property):
        word = law.statement.word
        if word == "positive_semidefinite":
            name = law.statement.subject.name
            found.append(f"if that is meant, state `law {name} is not positive_semidefinite`")
    if not heading.task:
        found.append(f"again: curvlang test {heading.given} {_options(heading, verdict)}")
    return found


def _options(heading: Heading, verdict: Verdict) -> str:
    examples = f"--examples {heading.examples} " if heading.examples != 50 else ""
    return f'{examples}--seed {verdict.seed} -k "{verdict.law.text}"'


def as_data(given: str, verdict: Verdict) -> dict[str, Any]:
    """A verdict for `--json`; numbers that are not finite are null."""
    law, counter = verdict.law, verdict.counterexample

    def plain(size: float) -> float | None:
        return size if isfinite(size) else None

    return {
        "spec": given,
        "law": law.text,
        "universal": law.universal,
        "kind": "some task" if law.exists else "every task",
        "holds": verdict.holds,
        "note": verdict.note,
        "tasks": verdict.tried,
        "undetermined": verdict.undetermined,
        "worst": plain(verdict.worst.size),
        "where": verdict.worst.where,
        "bound": law.bound,
        "seed": verdict.seed,
        "counterexample": None
        if counter is None
        else {
            "task": counter.task,
            "measured": plain(counter.gap.size),
            "where": counter.gap.where,
            "batch": counter.batch,
            "order": None if counter.order is None else list(counter.order),
        },
    }
