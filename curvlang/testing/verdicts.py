"""The verdicts about a spec's laws, as a table, as failures with their counterexamples, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.notebook import Display, frame
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.language import load
from curvlang.language.chain import Property, Spec, TaskSpec
from curvlang.language.checking.uses import task_in
from curvlang.language.law import PROPERTIES
from curvlang.runtime.progress.display import shown
from curvlang.runtime.progress.listeners import ProgressOption
from curvlang.testing.check import EXAMPLES, Verdict, check_spec

LARGEST_TASK = 64
"""Examples of a task that laws are checked on: the direct reading forms every product."""


@dataclass(frozen=True, slots=True, repr=False)
class LawReport(Display):
    """What a search for counterexamples found; printable.

    Args:
        given: The spec as it was named.
        verdicts: One for each law.
        examples: Tasks drawn for each law.
        task: The one task instead, as a spec writes it; None where tasks were drawn.
    """

    given: str
    verdicts: tuple[Verdict, ...]
    examples: int = EXAMPLES
    task: str | None = None

    @property
    def failed(self) -> int:
        """Laws that do not hold."""
        return sum(not v.holds for v in self.verdicts)

    def table(self, quiet: bool = False) -> str:
        """One line for each law, and a paragraph for each failure.

        Args:
            quiet: Failures only.
        """
        lines = [] if quiet else [_title(self)]
        width = min(64, max((len(v.law.text) for v in self.verdicts), default=0))
        for verdict in self.verdicts:
            if not quiet or not verdict.holds:
                lines.append(_line(verdict, width))
            if not verdict.holds:
                lines += [f"      {x}".rstrip() for x in _failure(self, verdict)]
        return "\n".join([*lines, ""]) if lines else ""

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row for every law.

        Raises:
            SpecError: E0757 where pandas is not installed.
        """
        rows = self.to_json()
        return frame({name: [row[name] for row in rows] for name in (rows[0] if rows else ())})

    def to_json(self) -> list[dict[str, Any]]:
        """Every verdict as plain values."""
        return [_plain(self.given, v) for v in self.verdicts]

    def _summary(self) -> str:
        held = len(self.verdicts) - self.failed
        return f"of {self.given}: {held} of {len(self.verdicts)} laws hold"

    def __str__(self) -> str:
        return self.table()


@validated
def check_laws(
    spec: Spec | str | Path,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    law: str = "",
    task: str | None = None,
    progress: ProgressOption = True,
) -> LawReport:
    """Search counterexamples to the laws of a spec; the same seed finds the same.

    Args:
        spec: A spec, a path, or the name of one that ships.
        examples: Tasks drawn for each law.
        seed: Of the search.
        law: Only laws whose text contains this.
        task: Check on this task alone, which may be one that the spec's file defines.
        progress: Shown on standard error; `False` for nothing, or a function that is called as work
            proceeds (`curvlang.runtime.progress`).

    Raises:
        SpecError: E0750 where no law's text contains `law`, E0751 for a task that is too large.
    """
    if not isinstance(law, str):
        raise another_type("law", law, "a text", '`law="equals"`')
    whole = spec if isinstance(spec, Spec) else load(spec)
    given = whole.source.name if isinstance(spec, Spec) else str(spec)
    one = None if task is None else small_task(whole, task)
    with shown(progress, "cv.check_laws") as told:
        found = check_spec(whole, examples=examples, seed=seed, law=law, task=one, progress=told)
    return LawReport(given, found, examples, task)


def small_task(spec: Spec, given: str) -> TaskSpec:
    """The task that a text states, small enough for the direct reading.

    Args:
        spec: Whose file may define it.
        given: Its name, or the task itself as a spec writes it.

    Raises:
        SpecError: E0751 for one that is too large.
    """
    task = task_in(spec, given)
    if task.data.name != "random" or int(str(task.data.arguments["examples"])) > LARGEST_TASK:
        raise refusal(
            Code.E0751,
            f"`{given}` is too large for laws",
            f"take `data random(examples = …)` with at most {LARGEST_TASK} examples",
        )
    return task


def _title(report: LawReport) -> str:
    verdicts, failed = report.verdicts, report.failed
    count = f"{len(verdicts)} law{'s' if len(verdicts) != 1 else ''}"
    where = f"on the task {report.task}" if report.task else f"seed {verdicts[0].seed}"
    return f"{report.given}: {count}, {f'{failed} failed' if failed else 'all hold'} ({where})"


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
    why = "nothing" if any(q.score for q in verdict.law.quantities) else "rounding"
    open_ = f", on {verdict.undetermined} {why} decides" if verdict.undetermined else ""
    return f"{size} ≤ {bound}{open_}"


def _number(size: float) -> str:
    return f"{size:.2g}" if isfinite(size) else "not finite"


def _failure(report: LawReport, verdict: Verdict) -> list[str]:
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
    if not report.task:
        found.append(f"again: curvlang test {report.given} {_options(report, verdict)}")
    return found


def _options(report: LawReport, verdict: Verdict) -> str:
    examples = f"--examples {report.examples} " if report.examples != EXAMPLES else ""
    return f'{examples}--seed {verdict.seed} -k "{verdict.law.text}"'


def _plain(given: str, verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values; numbers that are not finite are null."""
    law, counter = verdict.law, verdict.counterexample

    def finite(size: float) -> float | None:
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
        "worst": finite(verdict.worst.size),
        "where": verdict.worst.where,
        "bound": law.bound,
        "seed": verdict.seed,
        "counterexample": None
        if counter is None
        else {
            "task": counter.task,
            "measured": finite(counter.gap.size),
            "where": counter.gap.where,
            "batch": counter.batch,
            "order": None if counter.order is None else list(counter.order),
        },
    }
