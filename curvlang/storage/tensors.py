"""Tensors with a text in one sealed safetensors file: any byte that changes is found on reading.

The text is plain values. It holds the SHA-256 of the file, taken with zeros in its own place. The
same content gives the same bytes.
Tensors keep their layout: which are the same, and in which order the axes stand in memory, since
products round by it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.atomic import Destination, whole
from curvlang.storage.repeated import again, once, repeats
from curvlang.storage.sealing import BLANK, blank_text, seal_in

_KEY = "curvlang"
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
NOTE = "an earlier file of that name is unchanged"
FILL = "fill."
"""What the names of tensors begin with that are there to fill a gap."""
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
    write_file(Destination(path, "operator", NOTE), tensors, text)


def write_file(
    destination: Destination,
    tensors: Mapping[str, Tensor],
    text: Mapping[str, Any],
    align: int = 8,
) -> None:
    """Write tensors with a text and a checksum of both, all or nothing.

    Args:
        destination: Where, and how it is refused.
        tensors: By name.
        text: Plain values, kept beside them.
        align: Where tensors may begin, in bytes.

    Raises:
        CurvlangError: As the destination refuses.
    """
    kept, layout = laid_out(tensors)
    held = blank_text({**text, "layout": layout})
    needed, path = sum(tensor.nbytes for tensor in kept.values()), destination.path
    with destination.refusals(needed), whole(path) as part, part.open("rb+") as file:
        digest = write_tensors(file, kept, held, align)
        file.seek(_seal_in(file))
        file.write(digest.encode())


def read_sealed(path: Path) -> tuple[Mapping[str, Tensor], Text]:
    """Tensors and text of a file.

    Raises:
        SpecError: E0605 where it is missing or damaged, or written by something else.
    """
    if not os.path.isfile(path):
        raise unusable(f"there is no operator file `{path}`", "check the path")
    try:
        text = text_of(path)
        if text and text["sha256"] == digest_of(path):
            return restored(tensors_in(path), text["layout"]), text
    except UNREADABLE as error:
        damaged(path, error)
    if not text:
        raise unusable(
            f"`{path}` was not written by `op.save`, or by an earlier version",
            "save it with `op.save`",
        )
    changed(path)


def write_tensors(
    file: IO[bytes] | None, tensors: Mapping[str, Tensor], text: str = "", align: int = 8
) -> str:
    """Write tensors as safetensors does, one after another; the SHA-256 of what is written.

    Args:
        file: Where; None to take the checksum alone.
        tensors: By name.
        text: Kept in the header.
        align: Where tensors may begin, in bytes: what is between them is filled.
    """
    header: Text = {"__metadata__": {_KEY: text}} if text else {}
    start = 0
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    if align > 8:
        tensors = _filled(order, tensors, align)
        order = list(tensors)
    for name in order:
        tensor = tensors[name]
        ends = [start, start := start + tensor.nbytes]
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": ends,
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    # Eight bytes with the length of the header come first.
    head += b" " * (-(8 + len(head)) % align)
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


def _filled(order: Sequence[str], tensors: Mapping[str, Tensor], align: int) -> dict[str, Tensor]:
    """Tensors in their order, each followed by as many bytes as let the next begin where it may."""
    found: dict[str, Tensor] = {}
    for name in order:
        found[name] = tensors[name]
        if rest := -tensors[name].nbytes % align:
            found[f"{FILL}{len(found)}"] = torch.zeros(rest, dtype=torch.uint8)
    return found


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _seal_in(file: IO[bytes]) -> int:
    """Where the digits of the checksum begin in a file of tensors, from its beginning."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    return 8 + seal_in(file.read(length))


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as if its checksum were zeros."""
    with path.open("rb") as file:
        start = _seal_in(file)
        file.seek(0)
        state = hashlib.sha256(file.read(start) + BLANK.encode())
        file.seek(start + len(BLANK))
        while piece := file.read(1 << 24):
            state.update(piece)
    return state.hexdigest()


def text_of(path: Path) -> Text:
    """The text of a file; nothing else of it is read."""
    with safe_open(str(path), framework="pt") as file:
        found: Text = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    return found


def tensors_in(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, copied."""
    with safe_open(str(path), framework="pt") as file:
        # Products of numbers that stand elsewhere in memory round otherwise.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def laid_out(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Text]]:
    """Each tensor once, its axes as they stand in memory, and for the others what they are.

    One that is the same along its first axis has one entry there; how many it stands for is kept.
    """
    kept: dict[str, Tensor] = {}
    layout: dict[str, Text] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            layout[name] = {"same": seen[key]}
            continue
        seen[key] = name
        how: Text = {"repeats": len(tensor)} if repeats(tensor) else {}
        tensor = once(tensor)
        strides = tensor.stride()
        axes = sorted(range(tensor.ndim), key=strides.__getitem__, reverse=True)
        kept[name] = tensor
        if not tensor.is_contiguous() and tensor.permute(axes).is_contiguous():
            how["axes"] = axes
            kept[name] = tensor.permute(axes)
        if how:
            layout[name] = how
    return kept, layout


def restored(kept: Mapping[str, Tensor], layout: Mapping[str, Text]) -> dict[str, Tensor]:
    """Tensors with their axes in order, and those that are the same as one of them."""
    found = {name: _placed(tensor, layout.get(name, {})) for name, tensor in kept.items()}
    same = {name: how["same"] for name, how in layout.items() if "same" in how}
    return found | {name: found[source] for name, source in same.items() if source in found}


def _placed(tensor: Tensor, how: Text) -> Tensor:
    axes = how.get("axes", list(range(tensor.ndim)))
    placed = tensor.permute(tuple(axes.index(axis) for axis in range(tensor.ndim)))
    return again(placed, how["repeats"]) if "repeats" in how else placed


UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError)
"""What damage of a file can raise; a `SpecError` is none of them."""


def damaged(path: Path, error: BaseException) -> NoReturn:
    """Refuse a file that cannot be read at all."""
    reason = str(error).partition("\n")[0]
    raise unusable(f"`{path}` is damaged or not an operator file: {reason}", "save it again")


def changed(path: Path) -> NoReturn:
    """Refuse a file with another checksum."""
    raise unusable(
        f"`{path}` is damaged: its content is not what was written",
        "save it again, or fetch it again from where it came",
    )


def unusable(headline: str, repair: str) -> SpecError:
    """The refusal of an operator file, as the error to raise."""
    return refusal(Code.E0605, headline, repair)
