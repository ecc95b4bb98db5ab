"""`cv.rows`: an array in a file, or in several, as rows that stay there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.diagnostics.suggestion import suggestion
from curvlang.diagnostics.values import another_type
from curvlang.models.data.derived_rows import JoinedRows, MappedRows
from curvlang.models.data.rows import StoredRows
from curvlang.models.execution.calls import exhausted, whole_text
from curvlang.models.losses.loss import show_dtype
from curvlang.models.sources.file_rows import FileArray, FileRows
from curvlang.models.sources.npy_files import npy_array, npz_array, npz_names
from curvlang.models.sources.safetensors_files import (
    INDEX,
    index_files,
    safetensors_array,
    safetensors_names,
)

FilePath = str | os.PathLike[str]
Transform = Callable[[Tensor], Tensor]

CLOSE = 1e-4
"""Difference of a number that is computed for one row and for several: rounding of products."""
TRIED = 3
"""Rows that a function is tried on, together and one by one."""


def rows(
    path: FilePath | Sequence[FilePath],
    name: str | None = None,
    *,
    transform: Transform | None = None,
) -> StoredRows:
    """An array in a file as inputs or targets of a task: rows are read when they are needed.

    Integers are given in int64, floating-point numbers in the model's precision. The file must stay as
    it is; one that is changed or cut while it is in use is refused where it is read.

    Args:
        path: An `.npy`, `.npz` (of `np.savez`: not compressed) or `.safetensors` file, or the
            `.safetensors.index.json` of several; or a list of such files, whose rows follow each other.
        name: Of the array; may be left out where a file has one alone.
        transform: A function of some rows [B, …] that gives what the model reads, row by row, for
            example `lambda x: x.float() / 255`.

    Returns:
        Rows for `cv.Task(model, loss, (rows, targets), …)`, alone or beside tensors.

    Raises:
        SpecError: E0850 for a file that is not there, E0552 for one that is damaged, E0851 for an array
            that cannot stay in its file, E0852 for a function that is not one of rows.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else path
    if not isinstance(paths, Sequence) or not paths:
        raise another_type("path", path, "a path, or a list of paths", '`cv.rows("x.npy")`')
    if name is not None and not isinstance(name, str):
        raise another_type("name", name, "the name of an array", '`cv.rows("data.npz", "x")`')
    found = _joined([FileRows(_array(Path(one), name)) for one in paths])
    return found if transform is None else _transformed(found, transform)


def _array(path: Path, name: str | None) -> FileArray:
    """Where an array is.

    Raises:
        SpecError: E0850, E0552, E0851.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise refusal(Code.E0850, f"`{path}` {what}", "give the path of a file of numbers")
    if path.name.endswith(INDEX):
        files = index_files(path)
        inner = _chosen(path, list(files), name)
        return _array(files[inner], inner)
    match path.suffix.lower():
        case ".npy":
            if name is not None:
                raise refusal(
                    Code.E0851, f"`{path}` holds one array, which has no name", "leave `name` out"
                )
            found = npy_array(path)
        case ".npz":
            inner = _chosen(path, npz_names(path), name)
            member = npz_array(path, inner)
            if member is None:
                raise refusal(
                    Code.E0851,
                    f"`{inner}` of `{path}` is compressed",
                    "write it with `np.savez`, or read it into memory: "
                    f'`np.load("{path.name}")["{inner}"]`',
                    notes=("rows of a compressed array have no place of their own in the file",),
                )
            found = member
        case ".safetensors":
            found = safetensors_array(path, _chosen(path, safetensors_names(path), name))
        case suffix:
            raise refusal(
                Code.E0851,
                f"`{path}`: rows of files called `*{suffix}` do not stay there",
                "write an `.npy`, `.npz` or `.safetensors` file",
            )
    if not found.shape:
        raise refusal(
            Code.E0851, f"`{path}` holds one number", "give an array with a row for every example"
        )
    return found


def _chosen(path: Path, names: Sequence[str], name: str | None) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if not names:
        raise refusal(
            Code.E0851, f"`{path}` holds no array", "write one with a row for every example"
        )
    if name is None:
        shown = ", ".join(f"`{x}`" for x in names[:8])
        raise refusal(
            Code.E0851,
            f"`{path}` holds several arrays, and none is named: {shown}",
            f'name it: `cv.rows("{path.name}", "{names[0]}")`',
        )
    if name not in names:
        raise refusal(
            Code.E0851, f"`{path}` has no array `{name}`", *suggestion(name, tuple(names))
        )
    return name


def _joined(parts: Sequence[FileRows]) -> StoredRows:
    first = parts[0]
    for other in parts[1:]:
        if other.shape[1:] != first.shape[1:] or other.dtype != first.dtype:
            raise refusal(
                Code.E0851,
                f"`{first.array.path}` has rows of shape {list(first.shape[1:])} in "
                f"{show_dtype(first.dtype)} and `{other.array.path}` of {list(other.shape[1:])} in "
                f"{show_dtype(other.dtype)}",
                "give files whose rows are alike",
            )
    return first if len(parts) == 1 else JoinedRows(parts)


def _transformed(found: StoredRows, transform: Transform) -> StoredRows:
    """The function of every row, tried on a few of them.

    Raises:
        SpecError: E0852 where it gives other than a row for every row, or mixes them.
    """
    if not len(found):
        raise refusal(
            Code.E0852, "`transform` is tried on rows, and there are none", "leave it out"
        )
    some = found[:TRIED]
    whole = _made(transform, some)
    for n in range(len(some)):
        if not _alike(_made(transform, some[n : n + 1])[0], whole[n]):
            raise refusal(
                Code.E0852,
                f"`transform` gives for row {n} alone other numbers than beside {len(some) - 1} others",
                "let it give the same for a row whatever the others are, and draw nothing at random",
                notes=("rows are read in batches of any size, several times",),
            )
    return MappedRows((found,), transform, whole.shape[1:], whole.dtype)


def _alike(x: Tensor, y: Tensor) -> bool:
    """Whether two rows are equal but for the rounding of products."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return bool(torch.isclose(x.double(), y.double(), CLOSE, CLOSE, equal_nan=True).all())


def _made(transform: Transform, some: Tensor) -> Tensor:
    try:
        made = transform(some.clone())
    except Exception as error:
        if exhausted(error):
            raise
        raise refusal(
            Code.E0852,
            f"`transform` raises `{type(error).__name__}` with rows of shape {list(some.shape)}",
            "let it take some rows [B, …] together",
            notes=(whole_text(error),),
        ) from error
    if not isinstance(made, Tensor) or made.shape[:1] != some.shape[:1]:
        shown = list(made.shape) if isinstance(made, Tensor) else f"a `{type(made).__name__}`"
        raise refusal(
            Code.E0852,
            f"`transform` gives {shown} for rows of shape {list(some.shape)}",
            "let it give a tensor with a row for every row",
        )
    return made.detach()
