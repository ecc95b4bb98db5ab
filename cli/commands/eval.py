"""`curvlang eval`: error, influence and LDS along the chain, on the spec's task."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

import curvlang as cv

from ..options import (
    DataOption,
    DeviceOption,
    DtypeOption,
    Excludes,
    JsonOption,
    MemoryOption,
    Metric,
    MetricOption,
    ModelOption,
    OutOption,
    PrecisionOption,
    PythonOption,
    QuickOption,
    QuietOption,
    SchedulerOption,
    SeedOption,
    Specs,
    StoreOption,
    TaskOption,
    VerboseOption,
    WorkersOption,
)
from ..ranks import writes
from ..terminal import print_json, show_notes, show_warnings

EXAMPLES = (
    ("curvlang eval ekfac --quick", "a first look: a small protocol, some ten seconds"),
    ("curvlang eval kfac ekfac --no-lds --out runs/two", "two specs on one trained model"),
    ("curvlang eval mine.cv --data flowers.csv --seed 3", "a spec of yours on your data"),
)


def command(
    specs: Specs,
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    dtype: DtypeOption = None,
    memory: MemoryOption = None,
    store: StoreOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    quick: QuickOption = False,
    no_lds: Annotated[
        bool,
        typer.Option("--no-lds", help="Errors and influence only."),
        Excludes("workers", "scheduler"),
    ] = False,
    metric: MetricOption = Metric.loss,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    step_scores: Annotated[
        bool, typer.Option("--step-scores", help="Write the scores of every step, too.")
    ] = False,
) -> int:
    """Evaluate specs: structure, memory, error, share and LDS of every step of the chain."""
    loaded = [cv.load(given) for given in specs]
    setup = cv.Setup.named(device, precision or dtype, memory, seed, store, workers or scheduler)
    source = cv.TaskSource(task, data, model, allow_python)
    settings = cv.EvaluationSettings(source, quick, not no_lds, metric, setup, step_scores)
    asked = cv.evaluation_requests(loaded, settings)
    folders = cv.run_folders(asked, None if out is None else Path(out))
    show_warnings(loaded, quiet)
    found = []
    problems: list[cv.Diagnostic] = []
    with cv.Bars(quiet, "curvlang eval", store=store) as bars:
        reports = cv.evaluate_requests(asked, cache=cv.Cache(), progress=bars)
        for report, folder in zip(reports, folders, strict=True):
            if writes(str(folder)):
                ran = ["curvlang", "eval", *sys.argv[2:]]
                report.save(folder, step_scores=step_scores, command=ran)
            found.append(report.to_json())
            problems += report.run.problem.diagnostics if report.run.problem else []
            if not as_json:
                report.show()
            if not (as_json or quiet):
                show_notes([*_notes(report, verbose), f"written to {folder}/ (open report.html)"])
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
    if problems:
        raise cv.SpecError(problems)
    return 0


def _notes(report: cv.Report, verbose: bool) -> Iterator[str]:
    """Models retrained and read, and for `--verbose` what the solver took and the time of each part."""
    models = report.run.models
    if models is not None:
        yield f"retrained {models['trained']} models, {models['from the cache']} from the cache"
        if models["damaged files"]:
            damaged = models["damaged files"]
            yield (
                f"damaged files of the cache, not used: {damaged}; their models were trained again"
            )
    if verbose:
        yield from report.solves()
        for name, seconds in report.run.times.items():
            yield f"{name:>18}: {seconds:7.2f} s"
