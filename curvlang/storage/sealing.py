"""Plain values as text with its own checksum: any byte that changes is found on reading.

The checksum is the SHA-256 of all bytes, taken with zeros in its own place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"
BLANK = "0" * 64
_SEAL = f'"{KEY}": "'


def blank_text(content: Mapping[str, Any], indent: int | None = None) -> str:
    """Plain values as text, with zeros for the checksum."""
    return json.dumps({**content, KEY: BLANK}, sort_keys=True, indent=indent)


def seal_in(text: bytes) -> int:
    """Where the digits of the checksum begin.

    Raises:
        ValueError: Where it has none.
    """
    for mark in (_SEAL.encode(), json.dumps(_SEAL)[1:-1].encode()):
        if (found := text.find(mark)) >= 0:
            return found + len(mark)
    raise ValueError("it has no checksum")


def sealed(content: Mapping[str, Any]) -> bytes:
    """Plain values as a text with its checksum."""
    text = blank_text(content, indent=1)
    return _with(text, BLANK, hashlib.sha256(text.encode()).hexdigest()).encode()


def unsealed(content: bytes) -> dict[str, Any] | None:
    """What `sealed` was given, and the checksum; None where the text is not what was written.

    Raises:
        ValueError: Where it is something else.
    """
    found = json.loads(content)
    if not isinstance(found, dict) or not isinstance(found.get(KEY), str):
        raise ValueError("it has no checksum")
    text = content.decode()
    whole = hashlib.sha256(_with(text, found[KEY], BLANK).encode()).hexdigest()
    return found if found[KEY] == whole else None


def _with(text: str, digits: str, others: str) -> str:
    """The text with another checksum; values inside may have one of their own."""
    return text.replace(f"{_SEAL}{digits}", f"{_SEAL}{others}", 1)
