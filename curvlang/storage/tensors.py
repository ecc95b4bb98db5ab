"""Tensors with a text in sealed safetensors, one file or a folder of them: any byte that changes is found on reading.

The text is plain values. It holds the SHA-256 of its file, taken with zeros in its own place; in a
folder it is the manifest, with the SHA-256 of every file. The same content gives the same bytes.
Tensors keep their layout: which are the same, and in which order the axes stand in memory, since
products round by it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.atomic import Destination, whole
from curvlang.storage.swap import Content, write_folder

MANIFEST = "manifest.json"
SUFFIX = ".safetensors"
_KEY = "curvlang"
_BLANK = "0" * 64
_SEAL = '"sha256": "'
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_NOTE = "an earlier file of that name is unchanged"
Text = dict[str, Any]


def write_sealed(path: Path, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> None:
    """Write one file, all or nothing.

    Args:
        path: Where.
        tensors: By name.
        text: Plain values, kept beside them.

    Raises:
        SpecError: E0605 where the system does not let it be written.
        MachineError: E0802 where the disk is full.
    """
    if os.path.isdir(path):
        raise unusable(
            f"the operator file `{path}` cannot be written: it is a folder",
            f"name a file in it, or write `{path}/` for a folder of one file for each block",
        )
    kept, layout = _laid_out(tensors)
    needed = sum(tensor.nbytes for tensor in kept.values())
    held = _text({**text, "layout": layout})
    destination = Destination(path, "operator", _NOTE)
    with destination.refusals(needed), whole(path) as part, part.open("rb+") as file:
        found = _write(file, kept, held)
        file.seek(_seal_in(file))
        file.write(found.encode())


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
    kept, layout = _laid_out(tensors)
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in kept.items():
        files.setdefault(_file_of(name), {})[name] = tensor
    listed = {
        name: {"content": _write(None, held), "tensors": sorted(held)}
        for name, held in files.items()
    }
    manifest = _text({**text, "layout": layout, "files": listed}, indent=1)
    at = _seal(manifest.encode())
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    contents: dict[str, Content] = {
        name: partial(_write, tensors=held) for name, held in files.items()
    }
    contents[MANIFEST] = (manifest[:at] + digest + manifest[at + len(_BLANK) :]).encode()
    needed = sum(tensor.nbytes for tensor in kept.values())
    with Destination(path, "operator", _NOTE).refusals(needed):
        write_folder(path, contents)


def read_sealed(path: Path) -> tuple[Mapping[str, Tensor], Text]:
    """Tensors and text of a file or a folder; tensors of a folder are read when they are asked for.

    Raises:
        SpecError: E0605 where it is missing or damaged, or written by something else.
    """
    if os.path.isdir(path):
        return _read_folder(path)
    if not os.path.isfile(path):
        raise unusable(f"there is no operator file `{path}`", "check the path")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = json.loads((file.metadata() or {}).get(_KEY, "{}"))
        if text and text["sha256"] == _digest(path):
            return _restored(_tensors(path), text["layout"]), text
    except _UNREADABLE as error:
        _damaged(path, error)
    if not text:
        raise unusable(
            f"`{path}` was not written by `op.save`, or by an earlier version",
            "save it with `op.save`",
        )
    _changed(path)


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
                return _restored(_tensors(place), self._layout)
        except _UNREADABLE as error:
            _damaged(place, error)
        _changed(place)

    def __iter__(self) -> Iterator[str]:
        yield from (*self._files, *self._same)

    def __len__(self) -> int:
        return len(self._files) + len(self._same)


def _read_folder(path: Path) -> tuple[TensorFolder, Text]:
    place = path / MANIFEST
    if not place.is_file():
        raise unusable(
            f"`{path}` is not an operator's folder: it has no `{MANIFEST}`", "check the path"
        )
    try:
        content = place.read_bytes()
        at = _seal(content)
        blank = content[:at] + _BLANK.encode() + content[at + len(_BLANK) :]
        manifest = json.loads(content)
        if hashlib.sha256(blank).hexdigest() == manifest["sha256"]:
            return TensorFolder(path, manifest), manifest
    except _UNREADABLE as error:
        _damaged(place, error)
    _changed(place)


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


def _text(content: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps({**content, "sha256": _BLANK}, sort_keys=True, indent=indent)


def _write(file: IO[bytes] | None, tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Write tensors as safetensors does, one after another; the SHA-256 of what is written."""
    header: Text = {"__metadata__": {_KEY: text}} if text else {}
    start = 0
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in order:
        tensor = tensors[name]
        ends = [start, start := start + tensor.nbytes]
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    state = hashlib.sha256()
    pieces: tuple[bytes | Tensor, ...] = (
        len(head).to_bytes(8, "little"),
        head,
        *(tensors[name] for name in order),
    )
    for piece in pieces:
        raw = piece if isinstance(piece, bytes) else _bytes(piece)
        state.update(raw)
        if file is not None:
            file.write(raw)
    return state.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _seal(header: bytes) -> int:
    """Where in a header or a manifest the digits of the checksum begin."""
    for mark in (_SEAL.encode(), json.dumps(_SEAL)[1:-1].encode()):
        if (found := header.find(mark)) >= 0:
            return found + len(mark)
    raise ValueError("it has no checksum")


def _seal_in(file: IO[bytes]) -> int:
    """The same in a file of tensors, from its beginning."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    return 8 + _seal(file.read(length))


def _digest(path: Path) -> str:
    """SHA-256 of a file, as if its checksum were zeros."""
    with path.open("rb") as file:
        start = _seal_in(file)
        file.seek(0)
        state = hashlib.sha256(file.read(start) + _BLANK.encode())
        file.seek(start + len(_BLANK))
        while piece := file.read(1 << 24):
            state.update(piece)
    return state.hexdigest()


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), framework="pt") as file:
        # Copied: products of numbers that stand elsewhere in memory round otherwise.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _laid_out(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Text]]:
    """Each tensor once, its axes as they stand in memory, and for the others what they are."""
    kept: dict[str, Tensor] = {}
    layout: dict[str, Text] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            layout[name] = {"same": seen[key]}
            continue
        seen[key] = name
        strides = tensor.stride()
        axes = sorted(range(tensor.ndim), key=strides.__getitem__, reverse=True)
        kept[name] = tensor
        if not tensor.is_contiguous() and tensor.permute(axes).is_contiguous():
            layout[name] = {"axes": axes}
            kept[name] = tensor.permute(axes)
    return kept, layout


def _restored(kept: Mapping[str, Tensor], layout: Mapping[str, Text]) -> dict[str, Tensor]:
    """Tensors with their axes in order, and those that are the same as one of them."""
    found = {name: _placed(tensor, layout.get(name, {})) for name, tensor in kept.items()}
    same = {name: how["same"] for name, how in layout.items() if "same" in how}
    return found | {name: found[source] for name, source in same.items() if source in found}


def _placed(tensor: Tensor, how: Text) -> Tensor:
    if how.get("transposed"):
        # So did format 2 say it.
        return tensor.mT
    axes = how.get("axes", list(range(tensor.ndim)))
    return tensor.permute(tuple(axes.index(axis) for axis in range(tensor.ndim)))


_UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError)
"""What damage of a file can raise; a `SpecError` is none of them."""


def _damaged(path: Path, error: BaseException) -> NoReturn:
    reason = str(error).partition("\n")[0]
    raise unusable(f"`{path}` is damaged or not an operator file: {reason}", "save it again")


def _changed(path: Path) -> NoReturn:
    raise unusable(
        f"`{path}` is damaged: its content is not what was written",
        "save it again, or fetch it again from where it came",
    )


def unusable(headline: str, repair: str) -> SpecError:
    """The refusal of an operator file, as the error to raise."""
    return refusal(Code.E0605, headline, repair)
