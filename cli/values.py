"""What a shell may complete a SPEC or a TASK to; read from the files that ship, so that a key press is answered at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

_TASK = re.compile(r"^task (\w+)", re.MULTILINE)


def specs_from(incomplete: str) -> list[str]:
    """The specs that ship under names that begin so, and the files and folders whose paths do."""
    found = [x.stem for x in sorted(_shipped()) if x.stem.startswith(incomplete)]
    return [*found, *_paths(incomplete)]


def tasks_from(incomplete: str) -> list[str]:
    """The tasks that ship under names that begin so; a study's own is known in its file alone."""
    paths = (x for x in _shipped(all=True) if x.parent.name != "studies")
    names = [x for path in paths for x in _TASK.findall(path.read_text("utf-8"))]
    return sorted(x for x in names if x.startswith(incomplete))


def _shipped(*, all: bool = False) -> Iterator[Path]:
    """The files of the specs; with `all` also the prelude, which defines no curvature."""
    for path in Path(str(files("curvlang.specs"))).rglob("*.cv"):
        if all or path.stem != "prelude":
            yield path


def _paths(incomplete: str) -> Iterator[str]:
    """Specs and folders whose path begins so; a folder ends in `/`."""
    folder, slash, begun = incomplete.rpartition("/")
    place = Path(f"{folder}/" if slash else ".")
    if not place.is_dir() or not os.access(place, os.R_OK):
        return
    for path in sorted(place.iterdir()):
        if path.name.startswith(begun) and not path.name.startswith("."):
            if path.is_dir():
                yield f"{folder}{slash}{path.name}/"
            elif path.suffix == ".cv":
                yield f"{folder}{slash}{path.name}"
