"""`curvlang fmt`: format specs in place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    specs: Annotated[list[Path], typer.Argument(help="Files to format.")],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if needed.")
    ] = False,
) -> int:
    """Format specs in place: white space only, comments kept."""
    from curvlang.language.files import read, rewrite
    from curvlang.language.syntax.formatter import format_source

    changed = []
    sources = [read(str(path)) for path in specs]
    for source in sources:
        text = format_source(source)
        if text != source.text:
            changed.append((source.name, text))
    for name, text in changed:
        if not check:
            rewrite(Path(name), text)
        print(f"{name}: {'would be formatted' if check else 'formatted'}", file=sys.stderr)
    return 1 if check and changed else 0
