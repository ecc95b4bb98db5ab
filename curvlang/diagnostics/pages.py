"""The page of each diagnostic: what it means, an example, the message, the repair."""

from __future__ import annotations

import re
from importlib import resources

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal

_CODE = re.compile(r"E\d{4}", re.IGNORECASE)
"""How a code is written."""


def page(code: str) -> str | None:
    """The text of a code's page (Markdown), or None for what does not look like a code.

    Raises:
        SpecError: E0761 for a code that is not one.
    """
    if not _CODE.fullmatch(code):
        return None
    if code.upper() not in Code.__members__:
        help_ = "give a code that a message shows, such as `E0207`"
        raise refusal(Code.E0761, f"there is no diagnostic `{code}`", help_)
    return (resources.files("curvlang.pages") / f"{code.upper()}.md").read_text("utf-8")


def address(code: Code) -> str:
    """Where a code's page lies, as a `file:` address that an editor can open."""
    with resources.as_file(resources.files("curvlang.pages") / f"{code}.md") as path:
        return path.resolve().as_uri()
