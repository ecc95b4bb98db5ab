"""`curvlang study`: a sweep of tasks, protocols and models, as tables, figures and a verdict."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .options import DeviceOption, DtypeOption, MemoryOption, QuietOption, ResultOption
from .sources import PythonOption


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    out: Path | None
    quick: bool
    shard: str | None
    report: bool
    formats: str
    device: str
    dtype: str
    allow_python: bool
    json: bool
    quiet: bool


def command(
    spec: Annotated[str, typer.Argument(help="A path (`x.cv`, `x.cv:name`), or a shipped study.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder (with several studies: their parent).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One model a cell and a small protocol, to try things.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="Run part i of n alone, `2/3`; all parts, one folder.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Run nothing: report on the cells that are there.")
    ] = False,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Written as well: `md` and `csv` tables, `pdf` figures; `md,csv,pdf` for all.",
        ),
    ] = "",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float64",
    memory: MemoryOption = None,
    allow_python: PythonOption = False,
    as_json: ResultOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run a study: every cell of its sweep, resumed where it was stopped, and its report."""
    from curvlang.runtime.limits.memory import limited

    from .studying import study_all

    options = Options(
        out, quick, shard, report, formats, device, dtype, allow_python, as_json, quiet
    )
    with limited(memory):
        found = study_all(spec, options)
    if as_json:
        json.dump(found[0] if len(found) == 1 else found, sys.stdout, indent=2, allow_nan=False)
        print()
    return 0
