"""Files of examples as named columns: npz, csv, tsv, parquet, safetensors. No code in them is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.rows import Rows
from curvlang.models.files.dataset_folder import read_dataset
from curvlang.models.files.delimited import DelimitedText
from curvlang.models.files.file_columns import (
    AXES,
    LARGEST,
    Table,
    parsing,
    require_room,
    unreadable,
)
from curvlang.models.files.npz import read_npz
from curvlang.models.files.parquet import read_parquet
from curvlang.models.sources.file_rows import column_in_file
from curvlang.models.sources.safetensors_files import safetensors_names, safetensors_place

TABLES = (".csv", ".tsv", ".parquet")
"""Files whose columns are numbers of one kind: integers are read as numbers like others."""


def read_table(path: Path) -> Table:
    """Every column of a file, by the suffix of its name, or of a folder that `save_to_disk` has written.

    Raises:
        SpecError: E0552 for a file that is missing, of an unknown kind, damaged, empty or ragged,
            or that needs a package that is not there; also when a column is asked for that holds
            neither numbers nor texts, or does not fit in memory.
    """
    reader = read_dataset if is_folder(path) else READERS.get(path.suffix.lower())
    if reader is not read_dataset and (reader is not None or not path.suffix):
        check_file(path, Code.E0552, "give the path of a file of examples")
    if reader is None:
        raise refusal(
            Code.E0552,
            f"`{path}`: files called `*{path.suffix}` are not read",
            f"write the examples as one of {', '.join(READERS)}",
        )
    table = reader(path)
    if not table:
        raise unreadable(path, "it holds no column")
    return table


def is_folder(path: Path) -> bool:
    """Whether it is one; a name that no file can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def check_file(path: Path, code: Code, repair: str) -> None:
    """Refuse what is not a file: a folder, a pipe, a device, a name that no file can have.

    Args:
        path: What is to be read.
        code: Of the diagnostic.
        repair: What to give in its place.

    Raises:
        SpecError: With the code.
    """
    try:
        if path.is_file():
            return
        there = path.exists()
    except (OSError, ValueError) as error:
        shown = str(path) if len(str(path)) <= 80 else f"{str(path)[:80]}…"
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise refusal(code, f"`{shown}` cannot be opened: {why}", repair) from error
    what = (
        "is a folder" if path.is_dir() else "is not a regular file" if there else "does not exist"
    )
    raise refusal(code, f"`{path}` {what}", repair)


def _safetensors(path: Path) -> Table:
    return Table(safetensors_names(path), lambda name: _tensor(path, name))


def _tensor(path: Path, name: str) -> Rows:
    from safetensors import safe_open

    with parsing(path), safe_open(path, framework="pt") as held:
        where = safetensors_place(path, name)
        kept = None if where is None or not where.shape else column_in_file(where)
        if kept is not None:
            return kept
        value: Tensor = held.get_tensor(name)
        require_room(path, f"`{name}`", 8 * value.numel())
        if value.ndim > AXES:
            raise unreadable(path, f"`{name}` has {value.ndim} axes", f"write at most {AXES}")
        if value.is_complex():
            raise unreadable(
                path, f"`{name}` holds `{value.dtype}`", "write integers or floating-point numbers"
            )
        if value.is_floating_point():
            # Kinds of one byte have next to no functions in torch.
            return value if value.dtype.itemsize > 1 else value.to(torch.float32)
        if value.dtype == torch.uint64 and value.numel() and int(value.numpy().max()) > LARGEST:
            raise unreadable(path, f"`{name}` has integers beyond 2⁶³", "write smaller numbers")
        return value.to(torch.int64)


READERS: Mapping[str, Callable[[Path], Table]] = {
    ".npz": read_npz,
    ".csv": lambda path: DelimitedText(path, ",").table(),
    ".tsv": lambda path: DelimitedText(path, "\t").table(),
    ".parquet": read_parquet,
    ".safetensors": _safetensors,
}
"""What reads a file, by its suffix."""
