"""The one writer of files: whole or not at all, with the mode that the umask gives; refusals of the system as diagnostics."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import CurvlangError, Diagnostic, MachineError, SpecError
from curvlang.storage.leftovers import belongs_to, claimed, clear, hidden_name

RESUMED = "finished work is kept: run the same command to go on"
"""What a full disk has left unharmed where a run can be gone on with."""
NUL = "\u2400"
"""How messages show the character of that name."""
FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class _Kind:
    """Messages about one kind of file: their code, words before the path, repairs, whose the fault is."""

    code: Code
    before: str = ""
    another: str = "name another file"
    elsewhere: str = "name a file on another disk"
    error: type[CurvlangError] = SpecError


_KINDS = {
    "scores": _Kind(Code.E0585),
    "spec": _Kind(Code.E0822),
    "operator": _Kind(Code.E0605, "the operator file "),
    "figure": _Kind(Code.E0905),
    "folder": _Kind(Code.E0905, "", "name another folder", "name a folder on another disk"),
    "store": _Kind(
        Code.E0838,
        "the store ",
        "name another folder, or give yourself the right to write there",
        "name a folder on another disk",
        MachineError,
    ),
    "cache": _Kind(
        Code.E0803,
        "the cache ",
        "point `CURVLANG_CACHE` to a folder that can be written",
        "point `CURVLANG_CACHE` to another folder",
        MachineError,
    ),
}


@dataclass(frozen=True, slots=True)
class Destination:
    """What is written, and how messages speak of it.

    Args:
        path: The file or folder.
        kind: `scores`, `spec`, `operator`, `folder`, `figure`, `store` or `cache`.
        note: What a full disk has left unharmed.
    """

    path: Path
    kind: str
    note: str

    @contextmanager
    def refusals(self, needed: int = 0) -> Iterator[None]:
        """Turn what the system refuses into a diagnostic.

        Args:
            needed: Bytes that are written.

        Raises:
            MachineError: E0802 where the disk is full, with what was needed and what is free.
            CurvlangError: With the code of the kind, anything else.
        """
        kind = _KINDS[self.kind]
        shown = f"{kind.before}`{str(self.path).replace(chr(0), NUL)}`"
        try:
            if "\0" in str(self.path):
                raise OSError(errno.EINVAL, "a path cannot hold the character NUL")
            yield
        except OSError as refused:
            if refused.errno not in FULL:
                reason = refused.strerror or str(refused)
                headline = f"{shown} cannot be written: {reason}"
                found = Diagnostic(kind.code, headline, help=(kind.another,))
                raise kind.error(found) from refused
            above = next(folder for folder in self.path.absolute().parents if folder.exists())
            free = size(shutil.disk_usage(above).free)
            wanted = f"needs {size(needed)}" if needed else "cannot be written"
            headline = f"the disk is full: {shown} {wanted}, and {free} are free"
            help = f"free some space, or {kind.elsewhere}"
            full = Diagnostic(Code.E0802, headline, help=(help,), notes=(self.note,))
            raise MachineError(full) from refused


@contextmanager
def whole(target: Path, mode: int | None = None) -> Iterator[Path]:
    """A file to write to, which takes the name `target` when it is done; folders above are made.

    A link stays a link: the file that it names is written. Unfinished files of the same name, which
    killed processes have left, are removed. When this returns, the file is on the disk.

    Args:
        target: The name that it takes.
        mode: Its permissions; what the umask leaves of read and write for all where not given.

    Raises:
        OSError: Where the system refuses; `target` then is what it was.
    """
    target = Path(os.path.realpath(target))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    clear(target.parent, belongs_to(target))
    with claimed(target, Path.touch) as part:
        try:
            # The system has applied the umask: to ask for it would change it for every thread.
            allowed = part.stat().st_mode if mode is None else mode
            yield part
            part.chmod(allowed)
            sync(part)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)


def write(target: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file in one go, as `whole` does."""
    with whole(target, mode) as part:
        part.write_bytes(content)


def sync(file: Path) -> None:
    """Wait until a file's content is on the disk."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where the system can wait for that."""
    # The names are in place: a system that cannot wait for a folder (Windows) has not failed.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def probe(target: Path) -> None:
    """Try, before the work, whether `target` could be written after it; nothing stays.

    Raises:
        OSError: Where the system refuses.
    """
    target = Path(os.path.realpath(target))
    if os.path.ismount(target):
        raise OSError(errno.EBUSY, "it is a mount point, which cannot be replaced")
    above = next(place for place in target.absolute().parents if place.exists())
    clear(above, belongs_to(target))
    part = hidden_name(above / target.name)
    part.touch(exist_ok=False)
    part.unlink(missing_ok=True)
