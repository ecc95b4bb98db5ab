"""Where the tensors of safetensors files are, of one file or of several with an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.files.file_columns import AXES, parsing, unreadable
from curvlang.models.sources.file_rows import FileArray, strides_of

KINDS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Numbers of the format, by the names in its headers."""

INDEX = ".index.json"
"""What the name of an index ends in, beside the files that it names."""


def safetensors_names(path: Path) -> list[str]:
    """The tensors of a file, in its order.

    Raises:
        SpecError: E0552 for a file that is not one, or damaged.
    """
    return list(_header(path)[1])


def safetensors_array(path: Path, name: str) -> FileArray:
    """Where a tensor is.

    Raises:
        SpecError: E0552 for a damaged file, E0851 for a tensor that is not numbers.
    """
    found = safetensors_place(path, name)
    if found is None:
        raise refusal(
            Code.E0851,
            f"`{name}` of `{path}` holds other than numbers, or has more than {AXES} axes",
            "write integers or floating-point numbers of at most eight bytes",
        )
    return found


def safetensors_place(path: Path, name: str) -> FileArray | None:
    """Where a tensor is; None for one that is not numbers.

    Raises:
        SpecError: E0552 for a damaged file.
    """
    offset, tensors = _header(path)
    entry = tensors[name]
    kind, shape = KINDS.get(entry["dtype"]), tuple(entry["shape"])
    if kind is None or len(shape) > AXES:
        return None
    strides = strides_of(shape, kind.itemsize)
    return FileArray(path, offset + entry["data_offsets"][0], shape, strides, kind)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and what is said of every tensor; the library checks both."""
    from safetensors import SafetensorError, safe_open

    with parsing(path):
        try:
            with safe_open(path, framework="pt") as held:
                names = list(held.keys())
        except SafetensorError as error:
            raise unreadable(path, f"it is not a safetensors file ({error})") from error
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length))
        return 8 + length, {name: found[name] for name in names}


def index_files(path: Path) -> dict[str, Path]:
    """The file of every tensor that an index names.

    Raises:
        SpecError: E0552 for what is not an index, and for names that lead out of its folder.
    """
    with parsing(path, "write it again with the files that it names"):
        found = json.loads(path.read_text("utf-8"))["weight_map"]
        files = {str(name): Path(str(file)) for name, file in found.items()}
    odd = next((file for file in files.values() if file.name != str(file)), None)
    if odd is not None:
        raise unreadable(path, f"it names `{odd}`, outside its folder", "keep the files beside it")
    return {name: path.parent / file for name, file in files.items()}
