"""Folders that `Dataset.save_to_disk` of `datasets` writes: their Arrow files, read without that library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from curvlang.models.files.file_columns import Table, parsing, unreadable
from curvlang.models.files.parquet import kept_column
from curvlang.models.sources.arrow_files import ArrowFiles

_STATE = "state.json"
_SPLITS = "dataset_dict.json"
_REPAIR = "write it again with `dataset.save_to_disk(path)`"


def read_dataset(path: Path) -> Table:
    """The columns of a folder that holds one data set.

    Raises:
        SpecError: E0552 for another folder, one of several splits, and where pyarrow is missing.
    """
    if (path / _SPLITS).is_file():
        raise _several(path)
    if not (path / _STATE).is_file():
        raise unreadable(
            path,
            "it is a folder, and no data set that `save_to_disk` has written",
            "give the path of a file of examples",
        )
    state = _described(path, _STATE)
    with parsing(path, _REPAIR):
        names = [str(Path(file["filename"]).name) for file in state["_data_files"]]
        moved = bool(state.get("_indices_data_files"))
    if moved:
        raise unreadable(
            path, "its rows are reordered by a second file", "write `dataset.flatten_indices()`"
        )
    table = _arrow(path, [path / name for name in names])
    columns = table.table.column_names
    return Table(columns, lambda name: kept_column(path, name, table, columns.index(name)))


def _several(path: Path) -> Exception:
    held = _described(path, _SPLITS).get("splits")
    splits = [str(x) for x in held] if isinstance(held, list) else []
    first = splits[0] if splits else "train"
    return unreadable(
        path,
        f"it holds several data sets: {', '.join(f'`{x}`' for x in splits)}",
        f'give one of them, `file("{path / first}")`, and another one as `query`',
    )


def _described(path: Path, name: str) -> dict[str, Any]:
    with parsing(path, _REPAIR):
        found = json.loads((path / name).read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"`{name}` does not describe it")
        return found


def _arrow(path: Path, files: list[Path]) -> ArrowFiles:
    try:
        import pyarrow  # noqa: F401 - asked for before the files are
    except ImportError as error:
        raise unreadable(
            path,
            "its Arrow files need `pyarrow`, which is not installed",
            'install it with `pip install "curvlang[parquet]"`, or write csv or npz',
        ) from error
    with parsing(path, _REPAIR):
        found = ArrowFiles(files)
    names = found.table.column_names
    if len(set(names)) < len(names):
        raise unreadable(path, "two of its columns have one name", "give each its own name")
    return found
