"""`curvlang fmt`: format specs in place."""

from __future__ import annotations

import os
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
    from curvlang.language.files import read
    from curvlang.language.syntax.formatter import format_source

    changed = []
    sources = [read(str(path)) for path in specs]
    for source in sources:
        text = format_source(source)
        if text != source.text:
            changed.append((source.name, text))
    for name, text in changed:
        if not check:
            _replace(Path(name), text)
        print(f"{name}: {'would be formatted' if check else 'formatted'}", file=sys.stderr)
    return 1 if check and changed else 0


def _replace(path: Path, text: str) -> None:
    """Write all or nothing, rights kept."""
    from curvlang.storage.leftovers import belongs_to, clear, hidden_name, locked

    clear(path.parent, belongs_to(path))
    part = hidden_name(path)
    try:
        with part.open("x", encoding="utf-8") as handle, locked(part):
            handle.write(text)
            handle.flush()
            os.chmod(part, path.stat().st_mode)
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
