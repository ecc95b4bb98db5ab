"""`curvlang lsp`: the language server, over standard input and output."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal


def command(
    stdio: Annotated[
        bool, typer.Option("--stdio", help="Standard input and output (the only way it speaks).")
    ] = True,
    vscode: Annotated[
        Path | None,
        typer.Option(help="Write the extension for VS Code into this folder, and end."),
    ] = None,
) -> int:
    """Diagnostics, hover, completion, definitions and formatting for an editor."""
    if vscode is not None:
        from curvlang.editors.vscode import write_extension

        for path in write_extension(vscode):
            print(path)
        return 0
    if find_spec("pygls") is None:
        raise refusal(
            Code.E1001,
            "the language server needs the package `pygls`",
            "run `pip install 'curvlang[lsp]'`",
        )
    from curvlang.editors.server import serve

    if sys.stdin.isatty():
        print("waiting for an editor to speak to; `docs/editors.md` sets one up", file=sys.stderr)
    serve()
    return 0
