"""The grammar and its parse tables, which ship with it: building them takes longer than reading a spec."""

from __future__ import annotations

import hashlib
import json
import warnings
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lark import Lark

FILE = "curvlang.tables"
"""Plain data of the package. No file of a cache or a home is read as tables, and none is written."""


def grammar() -> str:
    """The text of the grammar."""
    return (resources.files("curvlang.grammars") / "curvlang.lark").read_text("utf-8")


@lru_cache(maxsize=1)
def parser() -> Lark:
    """The parser: from the tables that ship where they fit this grammar and this lark, else built.

    Damage is said once; the tables of another release of lark are not used, as they were not made for it.
    """
    text, held = grammar(), shipped()
    found = load(held, text)
    if found is None and not _of_another_lark(held):
        warnings.warn(
            f"the file `{FILE}` is damaged or missing: its content is computed again by every "
            "command, which takes a second; install curvlang again",
            stacklevel=2,
        )
    return found or build(text)


def shipped() -> bytes:
    """The tables that ship; nothing where their file is missing."""
    try:
        return (resources.files("curvlang.grammars") / FILE).read_bytes()
    except OSError:
        return b""


def _of_another_lark(tables: bytes) -> bool:
    words = tables.partition(b"\n")[0].split()
    return (
        len(words) == 3 and words[0] == b"lark" and words[1].decode("ascii", "replace") != release()
    )


def build(text: str, *, strict: bool = False) -> Lark:
    """The parser of a grammar; `strict` refuses ambiguous terminals as well as conflicts."""
    from lark import Lark

    return Lark(
        text, parser="lalr", propagate_positions=True, maybe_placeholders=True, strict=strict
    )


def load(tables: bytes, text: str) -> Lark | None:
    """The parser of a grammar from its tables; None where they are damaged or another grammar's.

    Args:
        tables: A key on the first line, then JSON, as `written_tables` makes them.
        text: The grammar.
    """
    from lark import Lark

    head, _, body = tables.partition(b"\n")
    if head != key(text, body):
        return None
    held = json.loads(body)
    held["memo"] = _numbered(held["memo"])
    automaton = held["data"]["parser"]["parser"]
    automaton["tokens"] = _numbered(automaton["tokens"])
    states = {k: _numbered(actions) for k, actions in automaton["states"].items()}
    automaton["states"] = _numbered(states)
    made: Lark = Lark.load(held)
    return made


def key(text: str, body: bytes) -> bytes:
    """The first line of a file of tables; it differs for each grammar, version of lark, and byte of them."""
    made = hashlib.sha256(text.encode())
    made.update(body)
    return f"lark {release()} {made.hexdigest()}".encode()


def release() -> str:
    """The release of lark that is installed, as tables name it."""
    from lark import __version__

    return ".".join(__version__.split(".")[:2])


def _numbered(held: dict[str, Any]) -> dict[int, Any]:
    """Numbers for keys, which JSON writes as texts."""
    return {int(k): v for k, v in held.items()}
