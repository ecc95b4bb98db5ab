"""Cells of a study on the disk: content-named, checksummed, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.evaluation.result_file import decode, dumps
from curvlang.evaluation.study.study_result import Cell
from curvlang.runtime.limits.disk import Claim, require_space
from curvlang.storage.arrays import write_npz
from curvlang.storage.atomic import Destination, write

CELLS = "cells"
_TRIES = 5
_PAUSE = 0.05
Values = Mapping[str, NDArray[np.floating[Any]]]


class CellFolder:
    """`FOLDER/cells/KEY.json` and `KEY.npz`; a damaged cell counts as absent and is reported.

    Args:
        folder: The study's run folder; made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder)) / CELLS
        self.damaged: list[str] = []
        self._held: dict[str, tuple[Cell, Values]] = {}

    def get(self, key: str) -> tuple[Cell, Values] | None:
        """A finished cell, or None where it is absent or damaged."""
        if key not in self._held:
            found = self._read(key)
            if found is None:
                return None
            self._held[key] = found
        return self._held[key]

    def put(self, key: str, cell: Cell, values: Values, more: int = 0) -> None:
        """Keep a cell: first its arrays, then the file that names their checksum.

        Raises:
            MachineError: E0841 where as many `more` of its size will not fit on the disk.
        """
        content, arrays = _encoded(cell, values)
        write_file(self.folder / f"{key}.npz", arrays)
        write_file(self.folder / f"{key}.json", content)
        self._held[key] = (cell, values)
        size = len(content) + len(arrays)
        require_space(Claim(self.folder.parent, more * size, what="folder"))

    def _read(self, key: str) -> tuple[Cell, Values] | None:
        place = self.folder / f"{key}.json"
        try:
            return _decoded(place.read_bytes(), place.with_suffix(".npz").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, SpecError):
            # Kept files are a cache: the cell is run again, and the command says so.
            self.damaged.append(str(place))
            return None


def packed_cell(cell: Cell, values: Values) -> bytes:
    """A cell as bytes, as another process gives it."""
    content, arrays = _encoded(cell, values)
    return len(content).to_bytes(8, "little") + content + arrays


def unpacked_cell(told: bytes) -> tuple[Cell, Values]:
    """The cell that was packed."""
    end = 8 + int.from_bytes(told[:8], "little")
    return _decoded(told[8:end], told[end:])


def _encoded(cell: Cell, values: Values) -> tuple[bytes, bytes]:
    """The text of a cell, which names the checksum of its arrays, and the arrays."""
    buffer = io.BytesIO()
    write_npz(buffer, values)
    arrays = buffer.getvalue()
    content = {"arrays": hashlib.sha256(arrays).hexdigest(), "cell": _json(cell)}
    return dumps(content).encode(), arrays


def _decoded(text: bytes, arrays: bytes) -> tuple[Cell, Values]:
    """The cell of a text and its arrays.

    Raises:
        ValueError: Where the arrays are others than those that the text names.
    """
    content = json.loads(text)
    if hashlib.sha256(arrays).hexdigest() != content["arrays"]:
        raise ValueError("checksum")
    cell = decode(Cell, content["cell"])
    with np.load(io.BytesIO(arrays), allow_pickle=False) as held:
        return cell, {name: held[name] for name in held.files}


def _json(cell: Cell) -> object:
    from dataclasses import asdict

    return asdict(cell)


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a name of its own and give it its name when it is whole.

    Raises:
        MachineError: E0802 where the disk is full.
        SpecError: E0905 where the system does not let it be written.
    """
    note = "finished cells are kept: run the same command to go on"
    with Destination(path, "folder", note).refusals(len(content)):
        for left in reversed(range(_TRIES)):
            try:
                write(path, content)
            except FileNotFoundError:
                # Another process has just put a new run folder in the place of the old one.
                if not left:
                    raise
                time.sleep(_PAUSE)
            else:
                return
