"""Plain values in a sealed file: any byte that changes is found on reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curvlang.storage.atomic import RESUMED, Destination, write
from curvlang.storage.mapped import DamagedError
from curvlang.storage.sealing import KEY, sealed, unsealed


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file, all or nothing.

    Args:
        path: Where.
        values: What JSON can say; the key `sha256` is added.

    Raises:
        MachineError: E0802 where the disk is full, E0838 where the system does not let it be written.
    """
    content = sealed(values)
    with Destination(path, "store", RESUMED).refusals(len(content)):
        write(path, content)


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote.

    Raises:
        FileNotFoundError: Where there is none.
        DamagedError: Where it is not what was written.
    """
    try:
        values = unsealed(path.read_bytes())
    except ValueError as error:
        raise DamagedError(path, str(error).partition("\n")[0]) from error
    if values is None:
        raise DamagedError(path, "its content is not what was written")
    return {name: value for name, value in values.items() if name != KEY}


def format_in(path: Path) -> object:
    """The format that a file names, whether or not it is what was written; None where it names none."""
    try:
        return dict(json.loads(path.read_bytes())).get("format")
    except (OSError, ValueError, TypeError):
        return None
