"""`curvlang cache`: how much is kept, and clearing it."""

from __future__ import annotations

from typing import Annotated

import typer

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal


def command(
    action: Annotated[str, typer.Argument(help="`show` or `clear`.")] = "show",
) -> int:
    """Show or clear what is kept: retrained ground truth."""
    from curvlang.storage.cache import Cache

    cache = Cache()
    if action not in ("show", "clear"):
        raise refusal(Code.E0708, f"`cache {action}` is not known", "use `show` or `clear`")
    files, held = cache.clear() if action == "clear" else cache.size()
    verb = "cleared" if action == "clear" else "kept"
    print(f"{files} files, {held / 2**20:.1f} MiB {verb} in {cache.root}")
    return 0
