"""`curvlang list`: what ships."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer


def command(
    search: Annotated[str, typer.Argument(help="Show only what contains this.")] = "",
) -> int:
    """Specs, transforms, inverses, tasks, data, models, losses and layers, one line each."""
    from curvlang.language import shipped

    wanted = search.lower()
    found = [x for x in shipped() if wanted in f"{x.kind} {x.name} {x.doc}".lower()]
    if not found:
        print(f"nothing that ships contains `{search}`")
        return 0
    width = max(len(x.name) for x in found)
    columns = max(60, shutil.get_terminal_size((110, 24)).columns)
    kind = ""
    for entry in found:
        if entry.kind != kind:
            print(f"{'' if not kind else chr(10)}{entry.kind}")
            kind = entry.kind
        line = f"  {entry.name.ljust(width)}  {entry.doc}"
        print(line if len(line) <= columns else line[: columns - 1] + "…")
    return 0
