"""`curvlang study`: a sweep of tasks, protocols and models, as tables, figures and a verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import curvlang as cv

from ..options import (
    OUTPUT,
    DeviceOption,
    DtypeOption,
    Excludes,
    JsonOption,
    MemoryOption,
    OutOption,
    PrecisionOption,
    PythonOption,
    QuickOption,
    QuietOption,
    SchedulerOption,
    Spec,
    VerboseOption,
    WorkersOption,
)
from ..terminal import print_json, show_notes, show_warnings

EXAMPLES = (
    ("curvlang study depth --quick", "a study that ships, small"),
    ("curvlang study depth --out runs/depth --shard 1/3", "the first of three machines"),
    ("curvlang study depth --out runs/depth --report --format md,pdf", "a report of what is there"),
)

FORMATS = ("md", "csv", "pdf", "gz")


def formats_of(text: str) -> str:
    """`md,csv`: formats, with commas between them."""
    for name in _parts(text):
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise typer.BadParameter(f"{name} is not one of {known}, or several of them: md,csv")
    return text


def _parts(text: str) -> tuple[str, ...]:
    return tuple(x.strip() for x in text.split(",") if x.strip())


def command(
    spec: Spec,
    out: OutOption = None,
    quick: QuickOption = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Run part i of n alone, `2/3`; all parts write to one folder."),
    ] = None,
    report: Annotated[
        bool,
        typer.Option("--report", help="Run nothing: report on the cells that are there."),
        Excludes("shard", "workers", "scheduler"),
    ] = False,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="md,csv,pdf,gz",
            callback=formats_of,
            help="Formats to write as well: `md` and `csv` tables, `pdf` figures, `gz` the packed result.",
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    dtype: DtypeOption = None,
    memory: MemoryOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    allow_python: PythonOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run a study: every cell of its sweep, resumed where it was stopped, and its report."""
    asked = cv.study_requests(
        spec,
        cv.Setup.named(device, precision or dtype, memory, workers=workers or scheduler),
        quick=quick,
        allow_python=allow_python,
        cache=cv.Cache(),
        command=("curvlang", "study", *sys.argv[2:]),
        shard=shard,
        formats=_parts(formats),
    )
    folders = cv.study_folders(asked, None if out is None else Path(out))
    show_warnings([asked[0].spec], quiet)
    found = []
    with cv.Bars(quiet, "curvlang study") as bars:
        for one, folder in zip(asked, folders, strict=True):
            if report:
                run = one.report(folder)
            else:
                notify = None if quiet else lambda line: show_notes([line])
                run = one.run(folder, notify=notify, progress=bars)
            found.append(run.to_json())
            if not as_json:
                run.show()
            if not (as_json or quiet):
                show_notes([*run.notes(), f"written to {folder}/ (open report.html)"])
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
    return 0
