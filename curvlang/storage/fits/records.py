"""Plain values in a file of JSON with its own checksum: any byte that changes is found on reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curvlang.storage.atomic import RESUMED, Destination, write
from curvlang.storage.mapped import DamagedError

KEY = "sha256"


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file, all or nothing.

    Args:
        path: Where.
        values: What JSON can say; the key `sha256` is added.

    Raises:
        MachineError: E0802 where the disk is full, E0838 where the system does not let it be written.
    """
    whole = {**values, KEY: _checksum(values)}
    content = json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False).encode()
    with Destination(path, "store", RESUMED).refusals(len(content)):
        write(path, content)


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote.

    Raises:
        FileNotFoundError: Where there is none.
        DamagedError: Where it is not what was written.
    """
    try:
        values = json.loads(path.read_bytes())
        if values.pop(KEY) != _checksum(values):
            raise DamagedError(path, "its content is not what was written")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedError(path, str(error).partition("\n")[0]) from error
    found: dict[str, Any] = values
    return found


def _checksum(values: Mapping[str, Any]) -> str:
    plain = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(plain.encode()).hexdigest()
