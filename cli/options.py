"""Options that several commands take: each is declared once, with its choices and what it excludes."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from .values import specs_from, tasks_from

LARGEST_SEED = 2**63 - 1
TASK, MACHINE, OUTPUT, SCORES = "Task", "Machine", "Output", "Scores"
"""Headings of the help."""


@dataclass(frozen=True, slots=True)
class Excludes:
    """Parameters that cannot be given with an option."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


@dataclass(frozen=True, slots=True)
class Needs:
    """A parameter that an option is of no use without, and an example of it."""

    name: str
    example: str


Dtype = StrEnum("Dtype", ["float32", "float64"])
Metric = StrEnum("Metric", ["loss", "margin", "logit"])
Group = StrEnum("Group", ["label", "all"])
Reduce = StrEnum("Reduce", ["sum", "mean"])
Products = StrEnum("Products", ["bfloat16"])


def seed(given: str | int) -> int:
    """A whole number, or one that is drawn for `random`."""
    text = str(given)
    if text == "random":
        return secrets.randbelow(2**31)
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise typer.BadParameter(f"{text} is neither a whole number below 2^63 nor `random`")
    return int(text)


def positive(value: float | None) -> float | None:
    """A number above 0."""
    if value is not None and not (isfinite(value) and value > 0):
        raise typer.BadParameter(f"must be a positive number (got {value:g})")
    return value


def share(value: float | None) -> float | None:
    """A number between 0 and 1."""
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"must be between 0 and 1, both excluded (got {value:g})")
    return value


class LogLines(logging.StreamHandler):  # type: ignore[type-arg]
    """The library's log on standard error, for one command."""


def log(wanted: bool) -> bool:
    """Show on standard error what the library logs, each line with its time and the module that says it.

    Without `wanted` the lines of an earlier command of the same process end.
    """
    logger = logging.getLogger("curvlang")
    ended = [x for x in logger.handlers if isinstance(x, LogLines)]
    for earlier in ended:
        logger.removeHandler(earlier)
    if wanted:
        handler = LogLines()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
    elif ended:
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    return wanted


Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="A path (`x.cv`, `x.cv:name`), or a shipped name.",
        autocompletion=specs_from,
    ),
]
Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC...",
        help="Paths (`x.cv`, `x.cv:name`), or shipped names.",
        autocompletion=specs_from,
    ),
]

TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="The task, as a spec writes it: `digits(hidden = [16])`.",
        autocompletion=tasks_from,
        rich_help_panel=TASK,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A file of examples (npz, csv, tsv, parquet, safetensors) or of texts (jsonl), a folder "
        'of `save_to_disk`, or a data line: `file("x.csv", target = label)`.',
        rich_help_panel=TASK,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A folder of `save_pretrained`, a file of weights for the task's model (safetensors, "
        "pt), or a model line: `mlp(hidden = [32])`.",
        rich_help_panel=TASK,
    ),
]
PythonOption = Annotated[
    bool,
    typer.Option(
        "--allow-python",
        help="Allow calls of functions that the spec names.",
        rich_help_panel=TASK,
    ),
]

DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="`cpu`, `cuda`, `cuda:1`; `auto` is CUDA where available.",
        rich_help_panel=MACHINE,
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="PRECISION",
        help="`bfloat16`, `float32`, `tf32` or `float64`; or of parts apart: "
        "`passes=bfloat16,decompositions=float64,products=float32`. [default: float64]",
        rich_help_panel=MACHINE,
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype", help="The same for passes and products at once.", rich_help_panel=MACHINE
    ),
    Excludes("precision"),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="AMOUNT",
        help="Memory for a fit and for preconditioned queries: `2GiB`, `500MB`; by default what is "
        "free.",
        rich_help_panel=MACHINE,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        parser=seed,
        metavar="NUMBER",
        help="Seed of the initialisation and of sampling: a whole number, or `random`.",
        rich_help_panel=MACHINE,
    ),
]

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Retrain in N processes of this machine (needs `curvlang[scale]`).",
        rich_help_panel=MACHINE,
    ),
    Excludes("scheduler"),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Retrain on the workers of a Dask scheduler: `tcp://10.0.0.1:8786`.",
        rich_help_panel=MACHINE,
    ),
]

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="A folder that keeps the fit, and the model that was trained for it: what is there is not "
        "computed again.",
        rich_help_panel=OUTPUT,
    ),
]
IndexOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="DIR",
        help="A store with an index (`curvlang index`): queries are scored against what it keeps, and no gradient "
        "of a training example is taken.",
        rich_help_panel=SCORES,
    ),
    Excludes("store", "per_layer", "per_position", "per_token", "own", "products", "compress"),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="PRECISION",
        help="Keep numbers in `bfloat16`, `float16` or `float32`, each example with a scale. [default: as computed]",
        rich_help_panel=OUTPUT,
    ),
]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="PATH",
        help="Where the result is written: a folder (several results: their parent), a score file, or "
        "a store of scores (`scores.zarr`). [default: runs/NAME-HASH, scores.npy]",
        rich_help_panel=OUTPUT,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="The result alone, as JSON on standard output.", rich_help_panel=OUTPUT
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No notes and no progress.", rich_help_panel=OUTPUT),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=log,
        help="Show what the library logs: passes, batches, stores, kept results, times.",
        rich_help_panel=OUTPUT,
    ),
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="A small protocol, to try things: wide intervals.")
]

MetricOption = Annotated[
    Metric,
    typer.Option(
        "--metric", help="The quantity of a query that scores explain.", rich_help_panel=SCORES
    ),
]
InverseOption = Annotated[
    str | None,
    typer.Option(
        "--inverse",
        metavar="INVERSE",
        help="An inverse as a spec writes it: `pseudo(rtol = 1e-4)`.",
        rich_help_panel=SCORES,
    ),
]
ScoreOption = Annotated[
    str | None,
    typer.Option(
        "--score",
        metavar="SCORE",
        help="A score as a spec writes it: `relatif`, `trackstar(power = 1)`, or `influence`. [default: the spec's]",
        rich_help_panel=SCORES,
    ),
]
DampingOption = Annotated[
    float | None,
    typer.Option(
        "--damping",
        metavar="NUMBER",
        callback=positive,
        help="λ of (C + λI)⁻¹, in place of the spec's inverse.",
        rich_help_panel=SCORES,
    ),
    Excludes("inverse"),
]
PerLayerOption = Annotated[
    bool,
    typer.Option(
        "--per-layer",
        help="Scores of every layer; they add up to the total.",
        rich_help_panel=SCORES,
    ),
]
PerPositionOption = Annotated[
    bool,
    typer.Option(
        "--per-position",
        help="Scores of every output position of the examples.",
        rich_help_panel=SCORES,
    ),
]
GroupOption = Annotated[
    Group | None,
    typer.Option(
        "--group",
        help="Score queries together: those of one label, or all.",
        rich_help_panel=SCORES,
    ),
]
ReduceOption = Annotated[
    Reduce,
    typer.Option(
        "--reduce", help="How the scores of a group are combined.", rich_help_panel=SCORES
    ),
    Needs("group", "--group label"),
]
ProductsOption = Annotated[
    Products | None,
    typer.Option(
        "--products",
        help="Faster products with training examples; the change of the scores is reported.",
        rich_help_panel=SCORES,
    ),
    Excludes("precision"),
]
CompressOption = Annotated[
    float | None,
    typer.Option(
        "--compress",
        metavar="SHARE",
        callback=share,
        help="Share of every query that a lower rank may leave out; the bound is reported.",
        rich_help_panel=SCORES,
    ),
]
PerTokenOption = Annotated[
    bool,
    typer.Option(
        "--per-token",
        help="Scores of every token of the training examples, without padding, and their `offsets`.",
        rich_help_panel=SCORES,
    ),
    Excludes("per_layer", "per_position"),
]
OwnOption = Annotated[
    bool,
    typer.Option(
        "--self",
        help="Score every training example against itself alone.",
        rich_help_panel=SCORES,
    ),
    Excludes(
        "per_layer",
        "per_position",
        "per_token",
        "group",
        "reduce",
        "queries",
        "metric",
        "products",
        "compress",
    ),
]
TopOption = Annotated[
    int,
    typer.Option(
        "--top",
        min=0,
        metavar="K",
        show_default=False,
        help="Show the K most helpful and most harmful examples of a query.",
        rich_help_panel=OUTPUT,
    ),
]
QueriesOption = Annotated[
    str | None,
    typer.Option(
        "--queries",
        metavar="NUMBERS",
        help="Which queries `--top` shows: `0,4,7`; the first three where not given.",
        rich_help_panel=OUTPUT,
    ),
    Needs("top", "--top 5"),
]
