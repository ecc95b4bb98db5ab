"""Files written whole or not at all, and what the system says of them, said to the user."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curvlang.diagnostics.amounts import size
from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import Diagnostic, MachineError
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.leftovers import belongs_to, clear, hidden_name, locked

FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def refusals(target: Path, needed: int, *, code: Code, thing: str, note: str) -> Iterator[None]:
    """Say what the system refused: a full disk is the machine's, anything else the target's.

    Args:
        target: What is written.
        needed: Bytes that it takes.
        code: Of the diagnostic about the target.
        thing: `file` or `folder`: what another one may be named of.
        note: What a full disk has left unharmed.

    Raises:
        MachineError: E0802 where the disk is full, with what was needed and what is free.
        SpecError: With the code, anything else.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise MachineError(_full(target, needed, thing, note)) from error
        reason = error.strerror or str(error)
        raise refusal(
            code, f"`{target}` cannot be written: {reason}", f"name another {thing}"
        ) from error


def _full(target: Path, needed: int, thing: str, note: str) -> Diagnostic:
    above = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(above).free
    return Diagnostic(
        Code.E0802,
        f"the disk is full: `{target}` needs {size(needed)}, and {size(free)} are free",
        help=(f"free some space, or name a {thing} on another disk",),
        notes=(note,),
    )


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A file to write to, which takes the name `target` when it is done; folders above are made.

    Unfinished files of the same name, which killed processes have left, are removed.

    Raises:
        OSError: Where the system refuses; `target` then is what it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clear(target.parent, belongs_to(target))
    part = hidden_name(target)
    try:
        part.touch(0o600, exist_ok=False)
        with locked(part):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.chmod(0o666 & ~_umask())
            part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def probe(target: Path) -> None:
    """Try, before the work, whether `target` could be written after it; nothing stays.

    Raises:
        OSError: Where the system refuses.
    """
    if os.path.ismount(target):
        raise OSError(errno.EBUSY, "it is a mount point, which cannot be replaced")
    above = next(place for place in target.absolute().parents if place.exists())
    part = hidden_name(above / target.name)
    part.touch(exist_ok=False)
    part.unlink()


def _umask() -> int:
    """What the process takes away from new files: temporary ones are made for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
