"""`curvlang influence`: scores of queries against training examples, to a file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    DeviceOption,
    DtypeOption,
    InverseOption,
    MemoryOption,
    MetricOption,
    QuietOption,
    SeedOption,
)
from .sources import DataOption, ModelOption, PythonOption, Sources, TaskOption

Spec = Annotated[str, typer.Argument(help="A path (`x.cv`, `x.cv:name`), or a shipped name.")]


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says."""

    spec: str
    out: Path
    metric: str
    damping: float | None
    inverse: str | None
    per_layer: bool
    per_position: bool
    self_influence: bool
    group: str | None
    reduce: str
    products: str | None
    compress: float | None
    top: int
    queries: str | None
    sources: Sources
    device: str
    dtype: str
    seed: int
    json: bool
    quiet: bool


def command(
    spec: Spec,
    out: Annotated[
        Path, typer.Option(help="The score file: .npy, .safetensors, .csv or .parquet.")
    ] = Path("scores.npy"),
    metric: MetricOption = "loss",
    damping: Annotated[
        float | None, typer.Option(help="λ of (C + λI)⁻¹, in place of the spec's inverse.")
    ] = None,
    inverse: InverseOption = None,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Scores of every layer; they add up to the total.")
    ] = False,
    per_position: Annotated[
        bool,
        typer.Option("--per-position", help="Scores of every output position of the examples."),
    ] = False,
    self_influence: Annotated[
        bool, typer.Option("--self", help="Every training example against itself alone.")
    ] = False,
    group: Annotated[
        str | None, typer.Option(help="Queries asked together: `label` (one group a class), `all`.")
    ] = None,
    reduce: Annotated[str, typer.Option(help="`sum` or `mean` over a group.")] = "sum",
    products: Annotated[
        str | None,
        typer.Option(
            help="`bfloat16`: faster products with training examples; says what it changes."
        ),
    ] = None,
    compress: Annotated[
        float | None,
        typer.Option(
            help="Share of every query that may be left out for a lower rank; says its bound."
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=0, help="Show the K most helpful and harmful examples of a query.")
    ] = 0,
    queries: Annotated[
        str | None, typer.Option(help="Which queries `--top` shows: `0,4,7`; the first three.")
    ] = None,
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float64",
    memory: MemoryOption = None,
    seed: SeedOption = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="What was computed, as JSON on standard output.")
    ] = False,
    quiet: QuietOption = False,
) -> int:
    """Train the task's model, fit the spec's curvature, and write influence scores to a file."""
    from curvlang.runtime.limits.memory import limited

    from .scoring import score

    request = Request(
        spec, out, metric, damping, inverse, per_layer, per_position, self_influence, group,
        reduce, products, compress, top, queries, Sources(task, data, model, allow_python), device, dtype, seed, as_json, quiet,
    )  # fmt: skip
    with limited(memory):
        found = score(request)
    if as_json:
        json.dump(found.data, sys.stdout, indent=2, allow_nan=False)
        print()
    elif found.text:
        print(found.text)
    return 0
