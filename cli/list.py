"""`curvlang list`: what ships."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Show only what contains every word."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False,
) -> int:
    """Specs, stages, transforms, inverses, tasks, data, models, losses, layers, laws: a line each."""
    from curvlang.language import search

    found = search(words or [])
    if as_json:
        print(json.dumps([asdict(x) for x in found], indent=2, ensure_ascii=False))
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
    from difflib import get_close_matches

    from curvlang.language import shipped

    near = get_close_matches(" ".join(words), [x.name for x in shipped()], 1, 0.6)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return f"nothing that ships contains {' and '.join(f'`{w}`' for w in words)}{hint}"
