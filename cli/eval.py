"""`curvlang eval`: error, influence and LDS along the chain, on the spec's task."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    DeviceOption,
    DtypeOption,
    MemoryOption,
    MetricOption,
    QuietOption,
    ResultOption,
    SeedOption,
)
from .sources import DataOption, ModelOption, PythonOption, Sources, TaskOption

Specs = Annotated[list[str], typer.Argument(help="Paths (`x.cv`, `x.cv:name`), or shipped names.")]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    sources: Sources
    device: str
    dtype: str
    seed: int
    out: Path | None
    quick: bool
    no_lds: bool
    metric: str
    json: bool
    verbose: bool
    quiet: bool
    step_scores: bool = False


def command(
    specs: Specs,
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float64",
    memory: MemoryOption = None,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder (with several specs: their parent).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small protocol: under half a minute.")
    ] = False,
    no_lds: Annotated[bool, typer.Option("--no-lds", help="Errors and influence only.")] = False,
    metric: MetricOption = "loss",
    as_json: ResultOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also the time of each part.")] = False,
    quiet: QuietOption = False,
    step_scores: Annotated[
        bool, typer.Option("--step-scores", help="Also the scores of every step, to a file.")
    ] = False,
) -> int:
    """Evaluate specs: structure, memory, error, share and LDS of every step of the chain."""
    from curvlang.runtime.limits.memory import limited

    from .running import evaluate_all

    sources = Sources(task, data, model, allow_python)
    options = Options(
        sources,
        device,
        dtype,
        seed,
        out,
        quick,
        no_lds,
        metric,
        as_json,
        verbose,
        quiet,
        step_scores,
    )
    with limited(memory):
        found = evaluate_all(specs, options)
    if as_json:
        shown: Any = found[0] if len(found) == 1 else found
        json.dump(shown, sys.stdout, indent=2, allow_nan=False)
        print()
    return 0
