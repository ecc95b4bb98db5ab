"""`curvlang influence`: scores of queries against training examples, to a file."""

from __future__ import annotations

import os

import curvlang as cv
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

from ..options import (
    CompressOption,
    DampingOption,
    DataOption,
    DeviceOption,
    DtypeOption,
    GroupOption,
    IndexOption,
    InverseOption,
    JsonOption,
    MemoryOption,
    Metric,
    MetricOption,
    ModelOption,
    OutOption,
    OwnOption,
    PerLayerOption,
    PerPositionOption,
    PerTokenOption,
    PrecisionOption,
    ProductsOption,
    PythonOption,
    QueriesOption,
    QuietOption,
    Reduce,
    ReduceOption,
    ScoreOption,
    SeedOption,
    Spec,
    StoreOption,
    TaskOption,
    TopOption,
    VerboseOption,
)
from ..ranks import writes
from ..terminal import print_json, show_lines, show_warnings

EXAMPLES = (
    ("curvlang influence ekfac --top 3", "scores.npy, and the extremes of three queries"),
    (
        "curvlang influence ekfac --damping 0.01 --per-layer --out scores.safetensors",
        "a λ of yours; an array for every layer",
    ),
    (
        "curvlang influence ekfac --out scores.zarr",
        "written as it comes; the same command goes on after a kill",
    ),
    ("curvlang influence ekfac --score relatif", "scores of another formula"),
    ("curvlang influence logra --index fits/logra", "against what `curvlang index` has kept"),
    ("curvlang influence kfac --self --out own.csv", "how far each loss rests on its own example"),
)


STREAMED = (".npy", ".zarr")
"""Formats that are written while scores are computed."""


def command(
    spec: Spec,
    out: OutOption = None,
    metric: MetricOption = Metric.loss,
    damping: DampingOption = None,
    inverse: InverseOption = None,
    score: ScoreOption = None,
    per_layer: PerLayerOption = False,
    per_position: PerPositionOption = False,
    per_token: PerTokenOption = False,
    own: OwnOption = False,
    group: GroupOption = None,
    reduce: ReduceOption = Reduce.sum,
    products: ProductsOption = None,
    compress: CompressOption = None,
    top: TopOption = 0,
    queries: QueriesOption = None,
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    dtype: DtypeOption = None,
    memory: MemoryOption = None,
    store: StoreOption = None,
    index: IndexOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Train the task's model, fit the spec's curvature, and write influence scores to a file."""
    file = out or ("scores.safetensors" if per_token else "scores.npy")
    cv.check_score_file(file, by_layer=per_layer, by_token=per_token)
    loaded = cv.load(spec)
    show_warnings([loaded], quiet)
    parts = per_layer, per_position, own, group, reduce, products, compress, per_token
    asked = cv.score_request(
        loaded,
        cv.TaskSource(task, data, model, allow_python),
        cv.Scoring(metric, damping, inverse, *parts, score),
        cv.Setup.named(device, precision or dtype, memory, seed, index or store),
        index=index is not None,
        out=file if file.lower().rstrip("/").endswith(STREAMED) else None,
    )
    shown = _numbers(queries, asked.rows)
    replaced = os.path.isfile(file)
    with cv.Bars(quiet, "curvlang influence", store=index or store) as bars:
        report = asked.run(bars)
    if not writes(file):
        return 0
    path = report.written or str(report.save(file))
    if as_json:
        print_json(report.to_json(top, shown) | {"file": path, "replaced": replaced})
        return 0
    if not quiet:
        sizes = ", ".join(f"{a} {n}" for a, n in zip(report.axes, report.shape, strict=True))
        written = f"written to {path}{' (replaced)' * replaced} [{sizes}]"
        show_lines([*report.header(), written])
    if top:
        print(report.table(top, shown))
    return 0


def _numbers(text: str | None, rows: int) -> list[int] | None:
    """`0,4,7` as numbers of queries or groups."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not part.isdecimal() or int(part) >= rows]
    if wrong:
        headline = f"`--queries`: there is no query `{wrong[0]}`"
        raise refusal(Code.E0708, headline, f"numbers are 0…{rows - 1}")
    return [int(part) for part in parts]
