"""`curvlang fit`: a fitted curvature in a folder, which other commands and runs read."""

from __future__ import annotations

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

from ..options import (
    DataOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MemoryOption,
    ModelOption,
    PrecisionOption,
    PythonOption,
    QuietOption,
    SeedOption,
    Spec,
    StoreOption,
    TaskOption,
    VerboseOption,
)
from ..terminal import print_json, show_lines, show_warnings

EXAMPLES = (
    ("curvlang fit ekfac --store fits/ekfac", "train the model, fit, and keep both"),
    ("curvlang fit kfac --store fits/kfac --memory 500MB", "within a limit: blocks may take turns"),
    ("curvlang fit ekfac --store fits/ekfac", "after a kill: what is finished is kept"),
)


def command(
    spec: Spec,
    store: StoreOption = None,
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    dtype: DtypeOption = None,
    memory: MemoryOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Train the task's model, fit the spec's curvature, and keep both in a folder.

    A run that was interrupted goes on where it was; the blocks of the curvature are files that other
    commands map into memory.
    """
    if store is None:
        headline = "`curvlang fit` keeps what it fits, and no store is named"
        raise refusal(Code.E0708, headline, f"name a folder: `curvlang fit {spec} --store DIR`")
    loaded = cv.load(spec)
    show_warnings([loaded], quiet)
    source = cv.TaskSource(task, data, model, allow_python)
    asked = cv.fit_request(
        loaded, source, cv.Setup.named(device, precision or dtype, memory, seed, store)
    )
    with cv.Bars(quiet, "curvlang fit", store=store) as bars:
        report = asked.run(bars)
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        show_lines(report.header())
    return 0
