"""The page of each diagnostic: what it means, an example, the message, the repair."""

from __future__ import annotations

from importlib import resources

from curvlang.diagnostics.codes import Code


def page(code: str) -> str | None:
    """The text of a code's page (Markdown), or None where there is no such code."""
    if code.upper() not in Code.__members__:
        return None
    return (resources.files("curvlang.pages") / f"{code.upper()}.md").read_text("utf-8")


def address(code: Code) -> str:
    """Where a code's page lies, as a `file:` address that an editor can open."""
    with resources.as_file(resources.files("curvlang.pages") / f"{code}.md") as path:
        return path.resolve().as_uri()
