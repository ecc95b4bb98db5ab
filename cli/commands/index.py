"""`curvlang index`: what scores need of the training examples, written once; later queries are scored against it."""

from __future__ import annotations

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

from ..options import (
    DataOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeepOption,
    MemoryOption,
    ModelOption,
    PrecisionOption,
    PythonOption,
    QuietOption,
    ScoreOption,
    SeedOption,
    Spec,
    StoreOption,
    TaskOption,
)
from ..ranks import writes
from ..terminal import print_json, show_lines, show_warnings

EXAMPLES = (
    (
        "curvlang index logra --store fits/logra",
        "the training examples in the curvature's coordinates",
    ),
    ("curvlang index logra --store fits/logra --keep float32", "in half the bytes"),
    ("curvlang index trak --store fits/trak --keep bfloat16", "projections in two bytes a number"),
)


def command(
    spec: Spec,
    store: StoreOption = None,
    score: ScoreOption = None,
    keep: KeepOption = None,
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
    quiet: QuietOption = False,
) -> int:
    """Write what scores need of the training examples to a folder, where the curvature lies too.

    A run that was interrupted goes on where it was. `curvlang influence SPEC --index DIR` scores queries against
    it.
    """
    if store is None:
        headline = "`curvlang index` keeps what it computes, and no store is named"
        raise refusal(Code.E0708, headline, f"name a folder: `curvlang index {spec} --store DIR`")
    loaded = cv.load(spec)
    show_warnings([loaded], quiet)
    asked = cv.index_request(
        loaded,
        cv.TaskSource(task, data, model, allow_python),
        cv.Setup.named(device, precision or dtype, memory, seed, store),
        score=score,
        keep=keep,
    )
    with cv.Bars(quiet, "curvlang index", store=store) as bars:
        report = asked.run(bars)
    if not writes(str(store)):
        return 0
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        show_lines(report.header())
    return 0
