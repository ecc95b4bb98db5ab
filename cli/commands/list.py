"""`curvlang list`: what ships."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

import curvlang as cv
from curvlang.diagnostics.suggestion import suggestion

from ..options import JsonOption
from ..terminal import print_json

EXAMPLES = (
    ("curvlang list", "everything, a line each"),
    ("curvlang list kronecker inverse", "what has both words in its name, its line or its source"),
)


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Show only what contains every word."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Specs, stages, transforms, inverses, tasks, data, models, losses, layers, laws: a line each."""
    found = cv.search(words or [])
    if as_json:
        print_json([asdict(x) for x in found])
        return 0
    if not found:
        print(_nothing(words or []))
        return 0
    width = max(len(x.name) for x in found)
    columns = max(60, shutil.get_terminal_size((110, 24)).columns)
    for number, (kind, entries) in enumerate(groupby(found, key=lambda x: x.kind)):
        print(f"{chr(10) if number else ''}{kind}")
        for entry in entries:
            line = f"  {entry.name.ljust(width)}  {entry.doc}"
            print(line if len(line) <= columns else line[: columns - 1] + "…")
    return 0


def _nothing(words: list[str]) -> str:
    """What to say where nothing is found: the nearest name, if there is one."""
    (hint,) = suggestion(" ".join(words), tuple(x.name for x in cv.search([])))
    near = f"; {hint}" if hint.startswith("did you mean") else ""
    return f"nothing that ships contains {' and '.join(f'`{w}`' for w in words)}{near}"
