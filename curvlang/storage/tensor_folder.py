"""Tensors with a text in a folder of safetensors files: a manifest with the checksum of each, read file by file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from curvlang.storage.atomic import Destination
from curvlang.storage.sealing import sealed, unsealed
from curvlang.storage.swap import Content, write_folder
from curvlang.storage.tensors import (
    NOTE,
    UNREADABLE,
    Text,
    changed,
    damaged,
    laid_out,
    restored,
    tensors_in,
    unusable,
    write_tensors,
)

MANIFEST = "manifest.json"
SUFFIX = ".safetensors"


def write_sealed_folder(path: Path, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> None:
    """Write a folder, all or nothing: a manifest, and a file for all tensors `KEY.…` of one key.

    Args:
        path: Where; an earlier folder of this kind is replaced.
        tensors: By name; a name is a key, a dot and a word.
        text: Plain values, kept in the manifest.

    Raises:
        SpecError: E0605 where the folder holds other files, or the system does not let it be written.
        MachineError: E0802 where the disk is full.
    """
    _check_replaceable(path)
    kept, layout = laid_out(tensors)
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in kept.items():
        files.setdefault(_file_of(name), {})[name] = tensor
    listed = {
        name: {"content": write_tensors(None, held), "tensors": sorted(held)}
        for name, held in files.items()
    }
    contents: dict[str, Content] = {
        name: partial(write_tensors, tensors=held) for name, held in files.items()
    }
    contents[MANIFEST] = sealed({**text, "layout": layout, "files": listed})
    needed = sum(tensor.nbytes for tensor in kept.values())
    with Destination(path, "operator", NOTE).refusals(needed):
        write_folder(path, contents)


def read_sealed_folder(path: Path) -> tuple[TensorFolder, Text]:
    """Tensors and text of a folder; tensors are read when they are asked for.

    Raises:
        SpecError: E0605 where it is missing or damaged, or written by something else.
    """
    place = path / MANIFEST
    if not place.is_file():
        raise unusable(
            f"`{path}` is not an operator's folder: it has no `{MANIFEST}`", "check the path"
        )
    try:
        manifest = unsealed(place.read_bytes())
        if manifest is not None:
            return TensorFolder(path, manifest), manifest
    except UNREADABLE as error:
        damaged(place, error)
    changed(place)


def is_sealed_folder(path: Path) -> bool:
    """Whether a folder is one that `write_sealed_folder` wrote, damaged or not."""
    return os.path.isfile(path / MANIFEST)


class TensorFolder(Mapping[str, Tensor]):
    """Tensors of a folder by name; a file is read, and checked, when one of its tensors is asked for.

    The file read last is kept in memory, and tensors that several names share.

    Args:
        path: The folder.
        manifest: Its text, checked.
    """

    def __init__(self, path: Path, manifest: Text) -> None:
        self.path = path
        self._layout: dict[str, Text] = manifest["layout"]
        self._sums = {file: held["content"] for file, held in manifest["files"].items()}
        self._files = {x: file for file, held in manifest["files"].items() for x in held["tensors"]}
        self._same = {name: how["same"] for name, how in self._layout.items() if "same" in how}
        self._shared: dict[str, Tensor] = {}
        self._last: tuple[str, dict[str, Tensor]] = ("", {})

    def __getitem__(self, name: str) -> Tensor:
        source = self._same.get(name, name)
        if source in self._shared:
            return self._shared[source]
        file = self._files[source]
        if self._last[0] != file:
            self._last = (file, self._read(file))
        found = self._last[1][source]
        if source in self._same.values():
            self._shared[source] = found
        return found

    def _read(self, file: str) -> dict[str, Tensor]:
        place = self.path / file
        try:
            with place.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            if content == self._sums[file]:
                return restored(tensors_in(place), self._layout)
        except UNREADABLE as error:
            damaged(place, error)
        changed(place)

    def __iter__(self) -> Iterator[str]:
        yield from (*self._files, *self._same)

    def __len__(self) -> int:
        return len(self._files) + len(self._same)


def _check_replaceable(path: Path) -> None:
    """A folder is ours to replace where it holds nothing but a manifest and tensors."""
    if not os.path.isdir(path):
        return
    foreign = sorted(x.name for x in path.iterdir() if x.name != MANIFEST and x.suffix != SUFFIX)
    if foreign or not (is_sealed_folder(path) or not any(path.iterdir())):
        shown = f"`{foreign[0]}`" if foreign else "tensors without a manifest"
        raise unusable(
            f"`{path}` holds what no operator's folder does: {shown}", "name another folder"
        )


def _file_of(name: str) -> str:
    """The file of a folder that holds a tensor: all tensors of one key are in one."""
    return name.rpartition(".")[0] + SUFFIX
