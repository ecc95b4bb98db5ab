"""Expensive results kept by content: written atomically, checksummed, safe when two runs share it."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.diagnostic import Diagnostic, MachineError

Array = NDArray[np.float64]
_DIGEST = 32


def default_root() -> Path:
    """`$CURVLANG_CACHE`, or `~/.cache/curvlang`."""
    given = os.environ.get("CURVLANG_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "curvlang"


class Cache:
    """Arrays under keys of text; a damaged file counts as absent and is reported.

    Args:
        root: The folder; made when first written to.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = default_root() if root is None else root
        self.damaged: list[str] = []

    def _path(self, key: str, name: str) -> Path:
        return self.root / key[:2] / key / f"{name}.bin"

    def get(self, key: str, name: str) -> Array | None:
        """The array, or None where it is absent or damaged."""
        path = self._path(key, name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, payload = data[:_DIGEST], data[_DIGEST:]
        if hashlib.sha256(payload).digest() != digest:
            self.damaged.append(str(path))
            return None
        found: Array = np.load(io.BytesIO(payload), allow_pickle=False)
        return found

    def put(self, key: str, name: str, value: Array) -> None:
        """Write an array, all or nothing.

        Raises:
            MachineError: E0802 where the disk is full or cannot be written.
        """
        path = self._path(key, name)
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        payload = buffer.getvalue()
        part = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=path.parent, delete=False, suffix=".part"
            ) as handle:
                part = handle.name
                handle.write(hashlib.sha256(payload).digest() + payload)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(part, path)
        except OSError as error:
            if part:
                Path(part).unlink(missing_ok=True)
            raise MachineError(_unwritable(path, len(payload), error)) from error

    def size(self) -> tuple[int, int]:
        """Files and bytes held."""
        files = [p for p in self.root.rglob("*") if p.is_file()] if self.root.exists() else []
        return len(files), sum(p.stat().st_size for p in files)

    def clear(self) -> tuple[int, int]:
        """Delete everything; files and bytes that were held."""
        held = self.size()
        if self.root.exists():
            shutil.rmtree(self.root)
        return held


def _unwritable(path: Path, needed: int, error: OSError) -> Diagnostic:
    folder = next(p for p in path.parents if p.exists())
    free = shutil.disk_usage(folder).free
    what = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
    return Diagnostic(
        "E0802",
        f"the cache `{path.parent}` cannot be written: {what}",
        help=("free some space, or point `CURVLANG_CACHE` to another folder",),
        notes=(f"{needed} bytes were needed, {free} are free",),
    )
