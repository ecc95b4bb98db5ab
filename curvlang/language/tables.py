"""The grammar and its parse tables; building the tables takes longer than reading a spec."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lark import Lark


def grammar() -> str:
    """The text of the grammar."""
    return (resources.files("curvlang.grammars") / "curvlang.lark").read_text("utf-8")


def folder() -> Path:
    """Where tables are kept: `$CURVLANG_CACHE`, or `~/.cache/curvlang`."""
    given = os.environ.get("CURVLANG_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "curvlang"


@lru_cache(maxsize=1)
def parser() -> Lark:
    """The parser: from kept tables where they fit this grammar, lark and Python, else built.

    A file that cannot be read or written costs the time to build the tables, nothing else.
    """
    text = grammar()
    kept = _place(text)
    try:
        return _load(kept)
    except (OSError, EOFError, pickle.UnpicklingError, LookupError, TypeError, AttributeError):
        made = build(text)
    try:
        _keep(made, kept)
    except OSError:
        pass  # A home that cannot be written to: the tables are built in every run.
    return made


def build(text: str, *, strict: bool = False) -> Lark:
    """The parser of a grammar; `strict` refuses ambiguous terminals as well as conflicts."""
    from lark import Lark

    return Lark(
        text, parser="lalr", propagate_positions=True, maybe_placeholders=True, strict=strict
    )


def _place(text: str) -> Path:
    from lark import __version__

    key = f"{text}\0{__version__}\0{sys.version_info[:3]}"
    return folder() / f"grammar-{hashlib.sha256(key.encode()).hexdigest()[:16]}.tables"


def _load(kept: Path) -> Lark:
    from lark import Lark

    with kept.open("rb") as handle:
        made: Lark = Lark.load(handle)
    return made


def _keep(made: Lark, kept: Path) -> None:
    """All or nothing, so that another process never reads half a file."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = ""
    try:
        with tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".part", delete=False) as handle:
            part = handle.name
            made.save(handle)
        os.replace(part, kept)
    except BaseException:
        if part:
            Path(part).unlink(missing_ok=True)
        raise
