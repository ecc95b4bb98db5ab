"""Expensive results kept by content: written atomically, checksummed, safe when two runs share it."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.storage.leftovers import clear, locked

Array = NDArray[np.float64]
_DIGEST = 32
_PART = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_OURS = ("??/*/*.bin", "??/*/*.part", "*.tables", "*.part")
"""What curvlang writes below the root: nothing else there is counted or deleted."""


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
        """The array, or None where it is absent or damaged.

        Raises:
            MachineError: E0803 where the system does not let it be read.
        """
        path = self._path(key, name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MachineError(_unreadable(path, error)) from error
        digest, payload = data[:_DIGEST], data[_DIGEST:]
        if hashlib.sha256(payload).digest() != digest:
            self.damaged.append(str(path))
            return None
        found: Array = np.load(io.BytesIO(payload), allow_pickle=False)
        return found

    def put(self, key: str, name: str, value: Array) -> None:
        """Write an array, all or nothing.

        Raises:
            MachineError: E0802 where the disk is full, E0803 where the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        payload = buffer.getvalue()
        self._write(self._path(key, name), hashlib.sha256(payload).digest() + payload)

    def probe(self) -> None:
        """Refuse a folder that nothing can be written to before hours go into what it will keep.

        Raises:
            MachineError: As `put` does.
        """
        path = self.root / f"probe-{os.getpid()}.part"
        self._write(path, b"")
        path.unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            clear(path.parent, _unfinished)
            self._replace(path, content)
        except OSError as error:
            raise MachineError(self._unwritable(path, len(content), error)) from error

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        part = path.with_name(f"{secrets.token_hex(8)}{_PART}")
        try:
            with part.open("xb") as handle, locked(part):
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
                os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _files(self) -> list[Path]:
        found = {p for pattern in _OURS for p in self.root.glob(pattern)}
        return sorted(p for p in found if p.is_file())

    def size(self) -> tuple[int, int]:
        """Files and bytes held."""
        sizes = [p.stat().st_size for p in self._files()]
        return len(sizes), sum(sizes)

    def clear(self) -> tuple[int, int]:
        """Delete what curvlang wrote, and folders left empty; files and bytes that were held.

        A folder may hold other things (`CURVLANG_CACHE` may name any): they stay.
        """
        files = self._files()
        held = sum(p.stat().st_size for p in files)
        for path in files:
            path.unlink(missing_ok=True)
        for folder in dict.fromkeys(f for p in files for f in (p.parent, p.parent.parent)):
            if folder.is_relative_to(self.root) and folder != self.root:
                _remove_empty(folder)
        return len(files), held

    def _unwritable(self, path: Path, needed: int, error: OSError) -> Diagnostic:
        if error.errno not in _FULL:
            return Diagnostic(
                Code.E0803,
                f"the cache `{self.root}` cannot be written: {error.strerror}",
                help=("point `CURVLANG_CACHE` to a folder that can be written",),
            )
        folder = next(p for p in path.parents if p.exists())
        free = shutil.disk_usage(folder).free
        return Diagnostic(
            Code.E0802,
            f"the disk is full: the cache `{self.root}` needs {needed} bytes more, {free} are free",
            help=("free some space, or point `CURVLANG_CACHE` to another folder",),
            notes=("what was kept before is unharmed: run the same command to go on",),
        )


def _unfinished(name: str) -> bool:
    return name.endswith(_PART)


def _unreadable(path: Path, error: OSError) -> Diagnostic:
    return Diagnostic(
        Code.E0803,
        f"the cache cannot be read: `{path}`: {error.strerror}",
        help=("mend its rights, or point `CURVLANG_CACHE` to another folder",),
    )


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
