"""`curvlang init`: a spec, a task and a test to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import curvlang as cv

EXAMPLES = (
    ("curvlang init mine", "mine/mine.cv and mine/test_mine.py"),
    ("curvlang init mine .", "the same files in this folder"),
)


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the curvature is called.")],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Where the files are written; NAME by default."),
    ] = None,
) -> int:
    """Write a spec with a task and its tests into a new folder, ready to be run and changed."""
    files = cv.first_files(name, folder)
    for path in files:
        print(path)
    print(f"next: curvlang eval {files[0]} --quick")
    return 0
