"""The store of a fit: a folder with a manifest, finished results block by block, and the work in between.

```text
DIR/store.json                  what it is of: hashes of model and data, spec, seed, precision
DIR/results/KEY/…               a fitted curvature: a file for each block, and `result.json` when all are there
DIR/work/KEY/turn-1/pass-1/…    folded sums of the chunks so far of a pass that is not finished
DIR/work/KEY/turn-1/after-1/…   what follows from the sums of a pass, a file for each block
DIR/model/KEY…                  the model that was trained for the fit
DIR/index/KEY/…                 what is kept of the training examples: chunk by chunk, and `result.json` when all is there
DIR/log/rank-K.log              what process K did
```

With several processes the folder lies on a file system that all of them see.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.values import another_type
from curvlang.storage.atomic import RESUMED, Destination, probe
from curvlang.storage.fits.identity import FORMAT, READ, Identity, check_identity, other_format
from curvlang.storage.fits.lock import HOLDER, LOCK, at_work
from curvlang.storage.fits.records import format_in, read_record, write_record
from curvlang.storage.leftovers import unfinished
from curvlang.storage.mapped import DamagedError, read_mapped, write_mapped
from curvlang.storage.swap import clear_inside
from curvlang.storage.tensors import Text

MANIFEST = "store.json"
RESULT = "result.json"
PLAN = "plan.json"
_RESULTS, _WORK = "results", "work"
LOG = "log"
PRECONDITIONER = "preconditioner"
MODEL = "model"
_INDEX = "index"
_OURS = {MANIFEST, LOCK, HOLDER, _RESULTS, _WORK, LOG, PRECONDITIONER, MODEL, _INDEX}
SUFFIX = ".safetensors"
_LONGEST = 80


class Folder:
    """A folder of a store: files of tensors by name, and a record that is there when it is whole.

    Args:
        path: Where; made when first written to.
        record: The record's name.
        damaged: Receives the paths of files that were not what was written; they are removed.
    """

    def __init__(self, path: Path, record: str, damaged: list[str]) -> None:
        self.path = path
        self._record = path / record
        self._damaged = damaged

    def record(self) -> dict[str, Any] | None:
        """The record; None where there is none."""
        try:
            return read_record(self._record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedError as error:
            self._remove(error)
            return None

    def finish(self, values: Mapping[str, Any]) -> None:
        """Write the record."""
        write_record(self._record, values)

    def put(self, name: str, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> int:
        """Write a file; its bytes."""
        return write_mapped(self.path / (name + SUFFIX), tensors, text)

    def get(self, name: str) -> tuple[dict[str, Tensor], Text] | None:
        """Tensors and text of a file, mapped; None where it is absent or damaged."""
        try:
            return read_mapped(self.path / (name + SUFFIX))
        except FileNotFoundError:
            return None
        except DamagedError as error:
            self._remove(error)
            return None

    def inner(self, name: str) -> Folder:
        """A folder inside it."""
        return Folder(self.path / name, self._record.name, self._damaged)

    def names(self) -> list[str]:
        """Of its files of tensors, in order."""
        found = (p.name for p in self.path.glob(f"*{SUFFIX}") if not unfinished(p.name))
        return sorted(name.removesuffix(SUFFIX) for name in found)

    def drop(self, name: str) -> None:
        """Remove a file of tensors."""
        (self.path / (name + SUFFIX)).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove it, with all that it holds; its record first, so that what is left of it is known as such."""
        self._record.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def clear(self) -> None:
        """Remove the folders in it."""
        for place in self.path.iterdir():
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)

    def bytes(self) -> int:
        """Of all files in it."""
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())

    def _remove(self, error: DamagedError) -> None:
        path, reason = error.args
        self._damaged.append(f"`{path}` ({reason})")
        # Of a store that cannot be written nothing is made again either.
        if os.access(path.parent, os.W_OK):
            path.unlink(missing_ok=True)


class FitStore:
    """A store, by its path.

    Args:
        path: The folder; made when first written to, with those above it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise another_type("store", path, "a path", '`store="fits/mine"`')
        self.path = Path(path)
        self.damaged: list[str] = []

    def result(self, key: str) -> Folder:
        """A fitted curvature."""
        return Folder(self.path / _RESULTS / key, RESULT, self.damaged)

    def work(self, key: str) -> Folder:
        """What is known of a run that is not finished."""
        return Folder(self.path / _WORK / key, PLAN, self.damaged)

    def models(self) -> Folder:
        """Models that were trained for the fit."""
        return Folder(self.path / MODEL, RESULT, self.damaged)

    def index(self, key: str) -> Folder:
        """What is kept of the training examples for later queries."""
        return Folder(self.path / _INDEX / key, RESULT, self.damaged)

    def indexes(self) -> list[str]:
        """The keys of all that is kept of the training examples, finished or not."""
        return sorted(place.name for place in (self.path / _INDEX).glob("*"))

    def progress(self) -> Iterator[str]:
        """What is there, a line for each result and each run that is not finished."""
        for place in sorted((self.path / _RESULTS).glob("*")):
            folder = Folder(place, RESULT, [])
            whole = "" if folder.record() is not None else ", not all of them"
            yield f"result {place.name[:8]}: {_counted(len(folder.names()), 'block')}{whole}"
        for place in sorted((self.path / _WORK).glob("*")):
            for part in sorted(p for p in place.glob("turn-*/*") if p.is_dir()):
                names = Folder(part, PLAN, []).names()
                what = "sums of chunks" if part.name.startswith("pass") else "statistics of blocks"
                yield f"run {place.name[:8]}, {part.parent.name}, {part.name}: {what}, {_counted(len(names), 'file')}"

    def manifest(self) -> dict[str, Any] | None:
        """What the store is of; None where there is no store yet.

        Raises:
            SpecError: E0836 for another format, E0837 where it is damaged, E0838 for what is not a
                store.
        """
        self._check_place()
        try:
            found = read_record(self.path / MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            self._check_foreign()
            return None
        except DamagedError as error:
            # Other formats may be sealed otherwise: what they are is said, not that they are damaged.
            other = format_in(self.path / MANIFEST)
            if other not in (None, *READ):
                raise other_format(self.path, {"format": other}) from error
            raise damaged_store(
                f"the manifest of the store `{self.path}` is damaged: {error.args[1]}",
                "fetch it again from where it came, or delete the folder and fit once more",
            ) from error
        if found.get("format") not in READ:
            raise other_format(self.path, found)
        return found

    def check(self, identity: Identity) -> bool:
        """Refuse a store of something else, or one that could not be written; whether there is one.

        Raises:
            SpecError: E0835 to E0838.
        """
        found = self.manifest()
        if found is None:
            self.probe()
            return False
        check_identity(self.path, identity_of(found, self.path), identity)
        return True

    def start(self, identity: Identity, about: Mapping[str, Any]) -> None:
        """Write the manifest, or keep the one that is there; unfinished files are removed.

        Args:
            identity: What it is of.
            about: What else the manifest says.

        Raises:
            SpecError: E0835 for a store of something else.
        """
        if not self.check(identity):
            written = {"format": FORMAT, "identity": identity.plain(), **about}
            write_record(self.path / MANIFEST, written)
        for place in (self.path / _WORK).glob("*"):
            # A run that was killed while it removed what it does not need any more.
            if Folder(place, PLAN, []).record() is None:
                shutil.rmtree(place, ignore_errors=True)
        for folder, _, _ in os.walk(self.path):
            clear_inside(Path(folder))

    def note(self, values: Mapping[str, Any]) -> None:
        """Add to the manifest what is known when the fit is done."""
        found = self.manifest() or {}
        if {**found, **values} != found:
            write_record(self.path / MANIFEST, {**found, **values})

    def probe(self) -> None:
        """Refuse, before the work, a folder that nothing can be written to.

        Raises:
            MachineError: E0802 where the disk is full, E0838 where the system refuses.
        """
        with Destination(self.path, "store", RESUMED).refusals():
            probe(self.path / MANIFEST)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work on the store, alone: see `at_work`."""
        self._check_place()
        with Destination(self.path, "store", RESUMED).refusals():
            self.path.mkdir(parents=True, exist_ok=True)
        with at_work(self.path):
            yield

    def bytes(self) -> int:
        """On the disk."""
        return Folder(self.path, MANIFEST, []).bytes()

    def _check_place(self) -> None:
        if "\0" in str(self.path):
            with Destination(self.path, "store", "").refusals():
                return
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise unusable_store(f"the store `{self.path}` is not a folder", "name a folder")

    def _check_foreign(self) -> None:
        """A folder is a store's where it is empty, or holds what stores do."""
        if not self.path.is_dir():
            return
        with Destination(self.path, "store", "").refusals():
            names = {p.name for p in self.path.iterdir() if not unfinished(p.name)}
        foreign = sorted(names - _OURS)
        if foreign:
            raise unusable_store(
                f"`{self.path}` holds what no store does: `{foreign[0]}`",
                "name an empty folder, or one that does not exist",
            )


def identity_of(manifest: Mapping[str, Any], path: Path) -> Identity:
    """What a manifest says that its store is of.

    Raises:
        SpecError: E0837 where it says something else.
    """
    try:
        return Identity(**manifest["identity"])
    except (KeyError, TypeError) as error:
        raise damaged_store(
            f"the manifest of the store `{path}` is damaged: {error}",
            "delete the folder and fit once more",
        ) from error


def file_name(number: int, block: str) -> str:
    """The name of a block's file: its number, and as much of its name as a file's name can hold."""
    return f"{number:04d}.{re.sub(r'[^A-Za-z0-9_.-]', '_', block)[:_LONGEST]}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def is_store(path: str | Path) -> bool:
    """Whether a folder is the store of a fit, damaged or not."""
    return os.path.isfile(Path(path) / MANIFEST)


def unusable_store(headline: str, repair: str) -> SpecError:
    """The refusal of a store that cannot be used as it was asked for."""
    return refusal(Code.E0838, headline, repair)


def damaged_store(headline: str, repair: str) -> SpecError:
    """The refusal of a store whose files are not what was written."""
    return refusal(Code.E0837, headline, repair)


def different_store(path: Path) -> SpecError:
    """The refusal of a store of which processes see different files."""
    return damaged_store(
        f"the store `{path}` is not the same for all processes",
        "name a folder on a file system that all of them see",
    )
