"""`curvlang cache`: how much is kept, and clearing it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

import curvlang as cv

EXAMPLES = (
    ("curvlang cache", "how much is kept, and where"),
    ("curvlang cache clear", "models are retrained when they are needed again"),
)


Action = StrEnum("Action", ["show", "clear"])


def command(
    action: Annotated[
        Action, typer.Argument(metavar="[show|clear]", help="What to do.")
    ] = Action.show,
) -> int:
    """Show or clear what is kept: retrained ground truth."""
    cache = cv.Cache()
    files, held = cache.clear() if action is Action.clear else cache.size()
    verb = "cleared" if action is Action.clear else "kept"
    print(f"{files} files, {held / 2**20:.1f} MiB {verb} in {cache.root}")
    return 0
