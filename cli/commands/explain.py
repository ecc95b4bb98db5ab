"""`curvlang explain`: structure, passes, contractions, costs and code; nothing is run."""

from __future__ import annotations

from typing import Annotated

import typer

import curvlang as cv
from curvlang.diagnostics.pages import page

from ..options import (
    DataOption,
    DeviceOption,
    DtypeOption,
    Excludes,
    JsonOption,
    MemoryOption,
    ModelOption,
    Needs,
    PrecisionOption,
    PythonOption,
    StoreOption,
    TaskOption,
    VerboseOption,
)
from ..terminal import print_json

EXAMPLES = (
    ("curvlang explain ekfac", "what is computed, in which passes, at which cost"),
    ("curvlang explain kfac --task digits_cnn --no-code", "the same for another model"),
    ("curvlang explain ekfac --world 8 --link 100GB/s", "also seconds and bytes on 8 processes"),
    ("curvlang explain E0207", "what a diagnostic means, with an example"),
)


def command(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="A path (`x.cv`, `x.cv:name`), a shipped name, or the code of a diagnostic.",
        ),
    ],
    task: TaskOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    allow_python: PythonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    dtype: DtypeOption = None,
    memory: MemoryOption = None,
    store: StoreOption = None,
    latex: Annotated[
        bool,
        typer.Option("--latex", help="The derivation alone, as LaTeX (amsmath)."),
        Excludes("code"),
    ] = False,
    code: Annotated[
        bool, typer.Option("--code/--no-code", help="Whether the torch code is shown.")
    ] = True,
    world: Annotated[
        int | None,
        typer.Option(
            "--world",
            metavar="NUMBER",
            help="Also predict seconds and bytes for a number of processes.",
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            "--link",
            metavar="RATE",
            help="The rate of the link between two processes: `100GB/s`, `10Gb/s`. [default: 12.5GB/s]",
        ),
        Needs("world", "--world 8"),
    ] = None,
    as_json: Annotated[JsonOption, Excludes("latex", "code")] = False,
    verbose: VerboseOption = False,
) -> int:
    """Print the plan of a spec on its task: nothing is trained, nothing is fitted.

    For the code of a diagnostic (`E0207`), print its page.
    """
    text = page(spec)
    if text is not None:
        print(text, end="")
        return 0
    source = cv.TaskSource(task, data, model, allow_python)
    setup = cv.Setup.named(device, precision or dtype, memory, store=store)
    plans = cv.explanations(spec, source, setup, world=world, link=link)
    if as_json:
        found = [plan.to_json() for plan in plans]
        print_json(found[0] if len(found) == 1 else found)
        return 0
    for number, plan in enumerate(plans):
        print("\n" * bool(number), end="")
        print(plan.latex() if latex else plan.text(code=code))
    if store is not None:
        print("", *cv.store_report(spec, source, setup), sep="\n")
    return 0
