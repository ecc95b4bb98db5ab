"""Tensors and a text in one safetensors file, sealed: any byte that changes is found when it is read.

The text is the file's only metadata, so that the same content gives the same bytes. It holds the
SHA-256 of the whole file, taken with zeros in its own place. Tensors keep their layout: which are the
same, and which stand transposed in memory, since products round by it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.leftovers import belongs_to, clear, hidden_name, locked

_KEY = "curvlang"
_BLANK = "0" * 64
_PIECE = 1 << 24


def write_sealed(path: str | Path, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> None:
    """Write a file, all or nothing.

    Args:
        path: Where.
        tensors: By name.
        text: Plain values, kept beside them.

    Raises:
        SpecError: E0605 where the system does not let it be written.
    """
    try:
        _written(path, tensors, text)
    except OSError as error:
        raise refusal(
            Code.E0605,
            f"the operator file `{path}` cannot be written: {error.strerror or error}",
            "name a file in a folder that there is and that can be written to, on a disk with room",
        ) from error


def _written(path: str | Path, tensors: Mapping[str, Tensor], text: Mapping[str, Any]) -> None:
    kept, layout = _laid_out(tensors)
    whole = json.dumps({**text, "layout": layout, "sha256": _BLANK}, sort_keys=True)
    target = Path(path).resolve()
    clear(target.parent, belongs_to(target))
    part = hidden_name(target)
    part.touch()
    try:
        with locked(part):
            save_file(kept, part, {_KEY: whole})
            found = _digest(part)
            with part.open("r+b") as file:
                file.seek(_seal(part))
                file.write(found.encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def read_sealed(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and text of a file.

    Raises:
        SpecError: E0605 where it is missing or damaged, or written by something else.
    """
    place = Path(path)
    if not place.is_file():
        raise refusal(Code.E0605, f"there is no operator file `{path}`", "check the path")
    try:
        with safe_open(str(path), framework="pt") as file:
            text = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if text and text["sha256"] == _digest(place):
                # Copied: products of numbers that stand elsewhere in memory round otherwise.
                kept = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
                return _restored(kept, text["layout"]), text
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise refusal(
            Code.E0605, f"`{path}` is damaged or not an operator file: {reason}", "save it again"
        ) from error
    if not text:
        raise refusal(
            Code.E0605,
            f"`{path}` was not written by `op.save`, or by an earlier version",
            "save it with `op.save`",
        )
    raise refusal(
        Code.E0605,
        f"`{path}` is damaged: its content is not what was written",
        "save it again, or fetch it again from where it came",
    )


def _seal(path: Path) -> int:
    """Where in the file the digits of its checksum begin."""
    with path.open("rb") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
    found = header.find(b'\\"sha256\\": \\"')
    if found < 0:
        raise ValueError("it has no checksum")
    return 8 + found + len(b'\\"sha256\\": \\"')


def _digest(path: Path) -> str:
    """SHA-256 of a file, as if its checksum were zeros."""
    start = _seal(path)
    state = hashlib.sha256()
    with path.open("rb") as file:
        state.update(file.read(start) + _BLANK.encode())
        file.seek(start + len(_BLANK))
        while piece := file.read(_PIECE):
            state.update(piece)
    return state.hexdigest()


def _laid_out(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Each tensor once, contiguous, and for the others what they are: the same as one, transposed."""
    kept: dict[str, Tensor] = {}
    layout: dict[str, dict[str, Any]] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            layout[name] = {"same": seen[key]}
            continue
        seen[key] = name
        turned = tensor.ndim > 1 and not tensor.is_contiguous() and tensor.mT.is_contiguous()
        layout.update({name: {"transposed": True}} if turned else {})
        kept[name] = (tensor.mT if turned else tensor).detach().contiguous().clone()
    return kept, layout


def _restored(
    kept: Mapping[str, Tensor], layout: Mapping[str, Mapping[str, Any]]
) -> dict[str, Tensor]:
    found = dict(kept)
    for name, how in layout.items():
        if how.get("transposed"):
            found[name] = kept[name].mT
    for name, how in layout.items():
        if "same" in how:
            found[name] = found[how["same"]]
    return found
