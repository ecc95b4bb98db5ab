"""The page of each diagnostic: what it means, an example, the message, the repair."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources


@lru_cache(maxsize=1)
def codes() -> tuple[str, ...]:
    """Every code that has a page, in order."""
    folder = resources.files("curvlang.pages")
    return tuple(
        sorted(x.name[:-3] for x in folder.iterdir() if re.fullmatch(r"E\d{4}\.md", x.name))
    )


def page(code: str) -> str | None:
    """The text of a code's page (Markdown), or None where there is no such code."""
    if code.upper() not in codes():
        return None
    return (resources.files("curvlang.pages") / f"{code.upper()}.md").read_text("utf-8")


def title(code: str) -> str:
    """The first line of a code's page, without the code."""
    return (page(code) or "").partition("\n")[0].partition(": ")[2]


def address(code: str) -> str | None:
    """Where a code's page lies, as a `file:` address that an editor can open."""
    if code not in codes():
        return None
    with resources.as_file(resources.files("curvlang.pages") / f"{code}.md") as path:
        return path.resolve().as_uri()
