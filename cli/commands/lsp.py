"""`curvlang lsp`: the language server, over standard input and output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import curvlang as cv

EXAMPLES = (
    ("curvlang lsp", "what an editor starts; `docs/editors.md` sets it up"),
    ("curvlang lsp --vscode curvlang-extension", "the extension for VS Code, into a folder"),
)


def command(
    stdio: Annotated[
        bool,
        typer.Option(
            "--stdio", help="Speak over standard input and output, which is the only way."
        ),
    ] = True,
    vscode: Annotated[
        Path | None,
        typer.Option(help="Write the extension for VS Code into this folder, and end."),
    ] = None,
) -> int:
    """Diagnostics, hover, completion, definitions and formatting for an editor."""
    if vscode is not None:
        for path in cv.write_extension(vscode):
            print(path)
        return 0
    if sys.stdin.isatty():
        print("waiting for an editor to speak to; `docs/editors.md` sets one up", file=sys.stderr)
    cv.language_server()
    return 0
