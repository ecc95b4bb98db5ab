"""Expensive results kept by content: written whole, checksummed, safe when two runs share the folder."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.diagnostics.notebook import Display
from curvlang.diagnostics.values import another_type
from curvlang.storage.atomic import RESUMED, Destination, probe, write
from curvlang.storage.leftovers import unfinished

Array = NDArray[np.float64]
_DIGEST = 32
_LOG = logging.getLogger(__name__)
_OURS = ("??/*/*.bin", "??/*/*.part", "*.tables", "*.part")
"""What curvlang and its earlier versions write below the root: nothing else there is deleted."""


def default_root() -> Path:
    """`$CURVLANG_CACHE`, or the system's folder for caches: `~/.cache/curvlang` on Linux.

    Where an earlier version has kept something in `~/.cache/curvlang`, it stays in use.
    """
    from platformdirs import user_cache_path

    given = os.environ.get("CURVLANG_CACHE")
    if given:
        return Path(given)
    earlier = Path(os.path.expanduser("~/.cache/curvlang"))
    return earlier if earlier.is_dir() else user_cache_path("curvlang", appauthor=False)


class Cache(Display):
    """Arrays under keys of text; a damaged file counts as absent and is reported.

    Args:
        root: The folder; made when first written to.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        if not isinstance(root, str | os.PathLike | None):
            raise another_type("root", root, "a folder", '`cv.Cache("folder")`')
        self.root = default_root() if root is None else Path(root)
        self.damaged: list[str] = []

    def _summary(self) -> str:
        return f"in {self.root}"

    def _path(self, key: str, name: str) -> Path:
        return self.root / key[:2] / key / f"{name}.bin"

    def get(self, key: str, name: str) -> Array | None:
        """The array, or None where it is absent or damaged.

        Args:
            key: What it is of.
            name: Which array of it.

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
            _LOG.warning("%s is damaged and not used", path)
            return None
        try:
            found: Array = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
        except ValueError:
            self.damaged.append(str(path))
            return None
        return found

    def put(self, key: str, name: str, value: Array) -> None:
        """Write an array, all or nothing.

        Args:
            key: What it is of.
            name: Which array of it.
            value: The array.

        Raises:
            MachineError: E0802 where the disk is full, E0803 where the folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        payload = buffer.getvalue()
        with self._destination.refusals(_DIGEST + len(payload)):
            write(self._path(key, name), hashlib.sha256(payload).digest() + payload)
        _LOG.info("kept %s: %s", self._path(key, name), size(len(payload)))

    def names(self, key: str) -> list[str]:
        """Under which names a key keeps something.

        Args:
            key: What they are of.
        """
        return sorted(x.stem for x in self._path(key, "x").parent.glob("*.bin"))

    def rename(self, key: str, old: str, new: str) -> None:
        """Keep what is there under another name; nothing happens where another process has done so.

        Raises:
            MachineError: As `put` does.
        """
        with self._destination.refusals(), suppress(FileNotFoundError):
            self._path(key, old).replace(self._path(key, new))

    def probe(self) -> None:
        """Refuse a folder that nothing can be written to before hours go into what it will keep.

        Raises:
            MachineError: As `put` does.
        """
        with self._destination.refusals():
            probe(self.root / "probe")

    @property
    def _destination(self) -> Destination:
        return Destination(self.root, "cache", RESUMED)

    def _files(self) -> list[Path]:
        found = {p for pattern in _OURS for p in self.root.glob(pattern)}
        found |= {p for p in self.root.glob("??/*/.*") if unfinished(p.name)}
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


class Unkept(Cache):
    """A cache that keeps nothing."""

    def get(self, key: str, name: str) -> None:
        """Nothing is there."""

    def put(self, key: str, name: str, value: Array) -> None:
        """Nothing is written."""

    def probe(self) -> None:
        """Nothing will be written."""


def _unreadable(path: Path, error: OSError) -> Diagnostic:
    return Diagnostic(
        Code.E0803,
        f"the cache cannot be read: `{path}`: {error.strerror}",
        help=("give yourself the right to read it, or point `CURVLANG_CACHE` to another folder",),
    )


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
