"""`curvlang test`: the laws of specs, on drawn tasks."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def command(
    specs: Annotated[list[str], typer.Argument(help="Paths, or names of specs that ship.")],
    examples: Annotated[int, typer.Option(help="Tasks drawn for each law.", min=1)] = 50,
    seed: Annotated[str, typer.Option(help="A number, or `random`.")] = "0",
    law: Annotated[str, typer.Option("--law", "-k", help="Only laws that contain this.")] = "",
    task: Annotated[
        str | None, typer.Option(help="Check on this task of the spec, such as a counterexample.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The verdicts as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Failures only.")] = False,
) -> int:
    """Check the laws of specs: exit 1 where one fails, with the smallest task that shows it."""
    from curvlang.language import load
    from curvlang.testing.check import check_spec

    from .progress import Bars
    from .verdicts import Heading, as_data, seed_of, task_of, words_of

    start = seed_of(seed)
    loaded = [(given, load(given)) for given in specs]
    chosen = [(given, spec, task_of(spec, task)) for given, spec in loaded]
    data, failed = [], 0
    for given, spec, one in chosen:
        with Bars(quiet or as_json) as bars:
            verdicts = check_spec(
                spec, examples=examples, seed=start, law=law, task=one, progress=bars
            )
        failed += sum(not v.holds for v in verdicts)
        if as_json:
            data += [as_data(given, v) for v in verdicts]
        else:
            print(words_of(Heading(given, examples, task), verdicts, quiet), end="")
        sys.stdout.flush()
    if as_json:
        print(json.dumps(data, indent=2, allow_nan=False))
    return 1 if failed else 0
