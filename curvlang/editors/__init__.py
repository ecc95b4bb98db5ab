"""Editors: highlighting, and a language server that answers from the text alone. No torch."""

from __future__ import annotations

from importlib.util import find_spec

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal


def serve() -> None:
    """Speak the language server's protocol over standard input and output, until the editor ends it.

    Raises:
        SpecError: E1001 where the package that speaks it is not installed.
    """
    if find_spec("pygls") is None:
        raise refusal(
            Code.E1001,
            "the language server needs the package `pygls`",
            "run `pip install 'curvlang[lsp]'`",
        )
    from curvlang.editors import server

    server.serve()
