"""Scores in one file: npy, safetensors, csv or parquet by its suffix; written whole or not at all."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.plain_arguments import validated
from curvlang.diagnostics.refusal import refusal
from curvlang.storage.arrays import write_npy
from curvlang.storage.atomic import Destination, probe, whole
from curvlang.storage.score_layout import SUFFIX, is_store
from curvlang.storage.score_store import check_store

Array = NDArray[np.floating[Any]]

ROWS = 2**16
"""Rows of a table that are formed at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a score file holds.

    Args:
        arrays: One array under the name `scores`, or one for every layer under the layer's name.
        axes: The names of their axes, in order: `query` or `group`, `train`, `position`.
        notes: Convention, inverse, task and the like, kept where the format has a place for it.
        labels: What the positions of an axis are called; where absent, 0, 1, 2 …
        offsets: Where the tokens of every training example begin, on an axis `token`, [N + 1].
    """

    arrays: Mapping[str, Array]
    axes: tuple[str, ...]
    notes: Mapping[str, str]
    labels: Mapping[str, tuple[object, ...]]
    offsets: NDArray[np.int64] | None = None

    @property
    def by_layer(self) -> bool:
        """Whether there is an array for every layer."""
        return set(self.arrays) != {"scores"}

    @property
    def bytes(self) -> int:
        """Of the numbers."""
        return sum(array.nbytes for array in self.arrays.values())


@validated
def check_score_file(
    path: str | os.PathLike[str], *, by_layer: bool = False, by_token: bool = False
) -> None:
    """Refuse, before the work, a file that could not be written after it.

    Args:
        path: The file.
        by_layer: Whether it is to hold an array for every layer.
        by_token: Whether it is to hold scores of tokens, and where every example's begin.

    Raises:
        SpecError: E0583 for a suffix without a format, or a format that has no names for arrays,
            E0584 where parquet lacks its package, E0585 where the system does not let it be
            written.
        MachineError: E0802 where the disk is full.
    """
    if is_store(path):
        check_store(path)
        return
    if "://" in os.fspath(path):
        raise refusal(
            Code.E0583,
            f"`{os.fspath(path)}`: files are written to folders of this machine alone",
            "name a path, or a zarr store at the address: `s3://bucket/scores.zarr`",
        )
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(f"`{name}`" for name in (*FORMATS, SUFFIX))
        what = f"the suffix `{suffix}`" if suffix else "no suffix"
        raise refusal(
            Code.E0583, f"`{target}` has {what}: the format is not known", f"use one of {known}"
        )
    if (by_layer or by_token) and suffix == ".npy":
        more = (
            "there is one for every layer" if by_layer else "tokens need their `offsets` beside it"
        )
        raise refusal(
            Code.E0583,
            f"`{target}`: an npy file holds one array, and {more}",
            "write `.zarr`, `.safetensors`, `.csv` or `.parquet`",
        )
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise refusal(
            Code.E0584,
            "parquet files need `pyarrow`, which is not installed",
            'install it with `pip install "curvlang[parquet]"`, or write `.csv`',
        )
    with _destination(target).refusals():
        if target.is_dir():
            raise refusal(Code.E0585, f"`{target}` is a folder", "name a file in it")
        probe(target)


def streams_to(path: str | os.PathLike[str]) -> bool:
    """Whether a format is written in parts, so that scores may be larger than memory."""
    return is_store(path) or os.fspath(path).lower().endswith(".npy")


def check_streamed(path: str | os.PathLike[str]) -> None:
    """Refuse a format that is written in one piece.

    Raises:
        SpecError: E0583.
    """
    if not streams_to(path):
        raise refusal(
            Code.E0583,
            f"`{os.fspath(path)}`: scores are written in parts to `.zarr` and `.npy` alone",
            "name such a file, or leave `out` out and write `report.save(…)`",
        )


def write_scores(path: str | os.PathLike[str], scores: Scores) -> Path:
    """Write a score file in the format of its suffix; folders above it are made.

    Returns:
        The file, absolute.

    Raises:
        SpecError: As `check_score_file`.
        MachineError: E0802 where the disk is full, with what was needed and what is free.
    """
    if is_store(path):
        raise refusal(
            Code.E0583,
            f"`{os.fspath(path)}`: a zarr store is written while scores are computed",
            "name it before: `cv.score_request(…, out=…)`",
        )
    check_score_file(path, by_layer=scores.by_layer, by_token=scores.offsets is not None)
    target = Path(os.path.abspath(path))
    with _destination(target).refusals(scores.bytes), whole(target) as part:
        FORMATS[target.suffix.lower()](part, scores)
    return target


def _npy(part: Path, scores: Scores) -> None:
    (array,) = scores.arrays.values()
    with part.open("wb") as file:
        write_npy(file, array)


def _safetensors(part: Path, scores: Scores) -> None:
    from safetensors.numpy import save

    notes = {**scores.notes, "axes": json.dumps(list(scores.axes))}
    for axis, labels in scores.labels.items():
        notes[f"labels of {axis}"] = json.dumps([str(x) for x in labels])
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(array) for name, array in scores.arrays.items()
    }
    if scores.offsets is not None:
        arrays["offsets"] = scores.offsets
    part.write_bytes(save(arrays, notes))


def _csv(part: Path, scores: Scores) -> None:
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_columns(scores))
        for columns in _tables(scores):
            writer.writerows(zip(*columns, strict=True))


def _parquet(part: Path, scores: Scores) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = _columns(scores)
    kind = pa.from_numpy_dtype(next(iter(scores.arrays.values())).dtype)
    types = [
        kind
        if name == "score"
        else pa.string()
        if name == "layer" or name in scores.labels
        else pa.int64()
        for name in names
    ]
    schema = pa.schema(list(zip(names, types, strict=True)), metadata=dict(scores.notes))
    with pq.ParquetWriter(part, schema) as writer:
        for columns in _tables(scores):
            arrays = [pa.array(c, type=t) for c, t in zip(columns, types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _columns(scores: Scores) -> list[str]:
    axes = [
        name for axis in scores.axes for name in (("train", axis) if axis == "token" else (axis,))
    ]
    return [*(["layer"] if scores.by_layer else []), *axes, "score"]


def _tables(scores: Scores) -> Iterator[list[list[Any]]]:
    """Columns of the long table, a row for every score, the last axis fastest, in pieces."""
    for name, array in scores.arrays.items():
        flat = array.reshape(-1)
        for start in range(0, flat.size, ROWS):
            values = flat[start : start + ROWS].tolist()
            at = np.unravel_index(np.arange(start, start + len(values)), array.shape)
            places = [
                column
                for axis, place in zip(scores.axes, at, strict=True)
                for column in _places(scores, axis, place)
            ]
            layer = [[name] * len(values)] if scores.by_layer else []
            yield [*layer, *places, values]


def _places(scores: Scores, axis: str, place: NDArray[np.int64]) -> Iterator[list[Any]]:
    """Places on an axis; of tokens their training example, and the place in it."""
    if scores.offsets is None or axis != "token":
        yield _named(place.tolist(), scores.labels.get(axis))
        return
    train = np.searchsorted(scores.offsets, place, side="right") - 1
    yield train.tolist()
    yield (place - scores.offsets[train]).tolist()


def _named(places: list[int], labels: tuple[object, ...] | None) -> list[Any]:
    return places if labels is None else [str(labels[k]) for k in places]


FORMATS: Mapping[str, Callable[[Path, Scores], None]] = {
    ".npy": _npy,
    ".safetensors": _safetensors,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""How each suffix is written."""


def _destination(target: Path) -> Destination:
    note = "nothing was left behind, and an earlier file of that name is unchanged"
    return Destination(target, "scores", note)
