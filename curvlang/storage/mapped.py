"""Tensors in a file that is mapped into memory: checked as a whole, read where they are used.

A tensor begins where torch's own do, at a multiple of 64 bytes: products with it round as they do with
one that was computed here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from curvlang.storage.atomic import RESUMED, Destination
from curvlang.storage.tensors import (
    FILL,
    UNREADABLE,
    Text,
    digest_of,
    restored,
    text_of,
    write_file,
)

ALIGN = 64
"""Bytes that the beginning of a tensor is a multiple of."""


class DamagedError(Exception):
    """A file that is not what was written; `args` hold its path and what is wrong with it."""


def write_mapped(path: Path, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> int:
    """Write one file, all or nothing; its bytes.

    Args:
        path: Where.
        tensors: By name.
        text: Plain values, kept beside them.

    Raises:
        MachineError: E0802 where the disk is full, E0838 where the system does not let it be written.
    """
    write_file(Destination(path, "store", RESUMED), tensors, text, ALIGN)
    return os.path.getsize(path)


def read_mapped(path: Path) -> tuple[dict[str, Tensor], Text]:
    """Tensors and text of a file: its checksum is taken piece by piece, its tensors are mapped.

    Raises:
        FileNotFoundError: Where there is none.
        DamagedError: Where it is not what was written.
    """
    try:
        text = text_of(path)
        if not text or text["sha256"] != digest_of(path):
            raise DamagedError(path, "its content is not what was written")
        with safe_open(str(path), framework="pt") as file:
            names = [x for x in file.keys() if not x.startswith(FILL)]  # noqa: SIM118
            found = {name: file.get_tensor(name) for name in names}
        return restored(found, text["layout"]), text
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise DamagedError(path, str(error).partition("\n")[0]) from error
