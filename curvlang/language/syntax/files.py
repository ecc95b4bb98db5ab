"""Spec files: where they are, and what can be wrong with one before a word of it is read."""

from __future__ import annotations

import os
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.source import Source
from curvlang.diagnostics.suggestion import suggestion
from curvlang.storage.atomic import Destination, write

LARGEST = 200_000
"""Bytes of a spec: some 4 000 lines, read and checked in about a second."""
PRELUDE = "prelude"


def shipped_files() -> dict[str, str]:
    """Name to text of every spec that ships."""
    return _texts("")


def shipped_studies() -> dict[str, str]:
    """Name to text of every study that ships."""
    return _texts("studies")


def shipped_scores() -> dict[str, str]:
    """Name to text of every file of scores that ships."""
    return _texts("scores")


@lru_cache(maxsize=3)
def _texts(folder: str) -> dict[str, str]:
    files = (
        resources.files("curvlang.specs") / folder if folder else resources.files("curvlang.specs")
    )
    return {
        entry.name[:-3]: entry.read_text("utf-8")
        # What the prelude defines comes first wherever it is listed or proposed.
        for entry in sorted(files.iterdir(), key=lambda e: (e.name != f"{PRELUDE}.cv", e.name))
        if entry.name.endswith(".cv")
    }


def split_name(given: str) -> tuple[str, str | None]:
    """`path.cv:name` to path and curvature; a bare path has none."""
    path, colon, name = given.rpartition(":")
    if colon and name.isidentifier() and not os.path.exists(given):
        return path, name
    return given, None


def read(given: str) -> Source:
    """The text of a spec: a path, or the bare name of one that ships.

    Raises:
        SpecError: E0110 missing, E0111 a folder, E0112 empty, E0113 too large, E0114 not text,
            E0115 unreadable.
    """
    path = Path(given)
    if not os.path.exists(given):
        if given in shipped_files():
            return Source(f"<shipped>/{given}.cv", shipped_files()[given])
        if given in shipped_studies():
            return Source(f"<shipped>/studies/{given}.cv", shipped_studies()[given])
        if given in shipped_scores():
            return Source(f"<shipped>/scores/{given}.cv", shipped_scores()[given])
        raise _missing(given)
    if path.is_dir():
        raise refusal(Code.E0111, f"`{given}` is a folder, not a spec", "name a `.cv` file in it")
    try:
        with path.open("rb") as file:
            # A device or a pipe has no size.
            data = file.read(LARGEST + 1)
            size = max(os.fstat(file.fileno()).st_size, len(data))
    except OSError as error:
        raise refusal(
            Code.E0115, f"`{given}` cannot be read: {error.strerror}", "check its permissions"
        ) from error
    if size > LARGEST:
        raise refusal(
            Code.E0113,
            f"`{given}` has {size} bytes, and a spec has at most {LARGEST}",
            "is this the right file?",
        )
    return Source(given, decode(given, data))


def rewrite(path: Path, text: str) -> None:
    """Write another text in the place of a spec's, its permissions kept: whole or not at all.

    Raises:
        SpecError: E0822 where the system does not let it be written.
        MachineError: E0802 where the disk is full.
    """
    with Destination(path, "spec", "the file is unchanged").refusals(len(text)):
        write(path, text.encode(), path.stat().st_mode)


def decode(name: str, data: bytes) -> str:
    """Bytes as text; binary data is refused, a byte-order mark is dropped."""
    if b"\0" in data:
        raise refusal(Code.E0114, f"`{name}` is binary, not a spec", "is this the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(
            Code.E0114, f"`{name}` is not UTF-8 text (byte {error.start})", "save it as UTF-8"
        ) from error
    if not text.strip():
        raise refusal(
            Code.E0112,
            f"`{name}` is empty",
            "a spec defines a curvature: `curvature mine = hessian |> drop_residual`",
        )
    return text


def _missing(given: str) -> SpecError:
    """What a path or name without a file may have meant: a file beside it, then a name that ships."""
    place = Path(given).expanduser().absolute()
    there = next((x for x in place.parents if x.is_dir()), place.parent)
    names = (*shipped_files(), *shipped_studies())
    beside = get_close_matches(place.name, [x.name for x in place.parent.glob("*.cv")], 1)
    near = (
        *(f"did you mean `{Path(given).parent / name}`?" for name in beside),
        *suggestion(given.removesuffix(".cv").rpartition("/")[2], names),
    )
    meant = [x for x in near if x.startswith("did")][:1]
    if not meant and "/" in given:
        return refusal(
            Code.E0110,
            f"there is no file `{given}`",
            f"check the path: `{there}` has no `{place.relative_to(there)}`",
        )
    return refusal(
        Code.E0110,
        f"there is no spec `{given}`",
        *(meant or ("`curvlang list` shows what ships",)),
    )
