"""`curvlang test`: the laws of specs, on drawn tasks."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

import curvlang as cv

from ..options import JsonOption, QuietOption, SeedOption, Specs, TaskOption, VerboseOption
from ..terminal import print_json

EXAMPLES = (
    ("curvlang test ekfac", "every law of a spec that ships, on 50 small tasks each"),
    ('curvlang test mine.cv -k "mine equals" --seed random', "some laws, on other tasks"),
    ("curvlang test mine.cv --task counterexample", "one task of the file"),
)


def command(
    specs: Specs,
    examples: Annotated[int, typer.Option(help="Tasks drawn for each law.", min=1)] = 50,
    seed: SeedOption = 0,
    law: Annotated[str, typer.Option("--law", "-k", help="Only laws that contain this.")] = "",
    task: TaskOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check the laws of specs: exit 1 where one fails, with the smallest task that shows it.

    With `--task` that task alone is tried, which may be one that the spec defines, such as a counterexample.
    With `--quiet` only failures are printed.
    """
    loaded = {given: cv.load(given) for given in specs}
    if task is not None:
        for spec in loaded.values():
            cv.small_task(spec, task)
    reports = []
    for given, spec in loaded.items():
        with cv.Bars(quiet or as_json, "curvlang test") as bars:
            found = cv.check_laws(
                spec, examples=examples, seed=seed, law=law, task=task, progress=bars
            )
        reports.append(replace(found, given=given))
        if not as_json:
            print(reports[-1].table(quiet), end="")
        sys.stdout.flush()
    if as_json:
        print_json([row for report in reports for row in report.to_json()])
    return 1 if any(report.failed for report in reports) else 0
