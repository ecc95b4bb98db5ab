"""`curvlang fmt`: format specs in place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import curvlang as cv

EXAMPLES = (
    ("curvlang fmt mine.cv", "in place"),
    ("curvlang fmt --check mine.cv yours.cv", "change nothing, exit 1 where a file would change"),
)


def command(
    specs: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files to format.")],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 where a file is not formatted.")
    ] = False,
) -> int:
    """Format specs in place: white space only, comments kept."""
    changed = [path for path in specs if cv.format_file(path, write=False)]
    for path in changed:
        if not check:
            cv.format_file(path)
        print(f"{path}: {'would be formatted' if check else 'formatted'}", file=sys.stderr)
    return 1 if check and changed else 0
