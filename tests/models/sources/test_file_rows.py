"""Rows of a file are those of the array that it holds: every order of axes and bytes, every index."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.sources import file_rows
from curvlang.models.sources.file_rows import FileRows
from curvlang.models.sources.npy_files import map_array

NUMBERS = np.random.default_rng(0).integers(-100, 100, (23, 5, 4, 3)).astype("i2")
Array = np.ndarray[Any, Any]
VIEWS: dict[str, Callable[[Array], Array]] = {
    "whole": lambda m: m,
    "later rows": lambda m: m[3:],
    "every second row": lambda m: m[::2],
    "reversed": lambda m: m[::-1],
    "a part of every row": lambda m: m[:, 1],
    "one number of every row": lambda m: m[:, 0, 1, 2],
    "channels first": lambda m: m.transpose(0, 3, 1, 2),
    "axes exchanged": lambda m: m.transpose(1, 0, 2, 3),
    "steps in all axes": lambda m: m[::-3, ::2, ::-1],
    "columns": lambda m: m.transpose(3, 2, 1, 0)[:, ::-1],
    "flat": lambda m: m.reshape(23, -1),
    "repeated": lambda m: np.broadcast_to(m[:1], (9, 5, 4, 3)),
    "an array of the map": lambda m: np.asarray(m)[2:],
}
INDICES: tuple[int | slice | Tensor, ...] = (
    0,
    -1,
    slice(None),
    slice(1, 3),
    slice(0, None, 2),
    torch.tensor([2, 0, 0, 1]),
    torch.tensor([], dtype=torch.int64),
)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("near", [0, file_rows.NEAR], ids=["apart", "together"])
def test_a_view_of_a_map_is_read_from_its_file(
    view: str, near: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_rows, "NEAR", near)
    monkeypatch.setattr(file_rows, "AT_ONCE", 400)
    np.save(tmp_path / "a.npy", NUMBERS)
    seen = VIEWS[view](np.load(tmp_path / "a.npy", mmap_mode="r"))
    array = map_array(seen)
    assert array is not None
    rows, whole = FileRows(array), torch.from_numpy(seen.astype("i8"))
    for index in INDICES:
        assert torch.equal(rows[index], whole[index]), index


def test_what_is_written_to_a_map_is_read_from_its_file(tmp_path: Path) -> None:
    kept = np.memmap(tmp_path / "a.dat", "f4", "w+", offset=64, shape=(6, 2))
    kept[:] = np.arange(12).reshape(6, 2)
    array = map_array(kept)
    assert array is not None
    assert torch.equal(FileRows(array)[2:4], torch.tensor([[4.0, 5], [6, 7]]))


def test_arrays_that_are_not_in_a_file_are_not_read_from_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NUMBERS)
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    texts = np.memmap(tmp_path / "t.dat", "S4", "w+", shape=(3,))
    for value in (NUMBERS, private, private + 1, texts, [1.0], np.memmap(tmp_path / "a.npy") + 1):
        assert map_array(value) is None


@pytest.mark.parametrize("change", ["cut", "rewritten", "touched", "gone", "replaced by less"])
def test_a_file_that_changes_is_refused_when_it_is_read(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, NUMBERS)
    array = map_array(np.load(path, mmap_mode="r"))
    assert array is not None
    rows = FileRows(array)
    assert len(rows[:2]) == 2
    match change:
        case "cut":
            os.truncate(path, path.stat().st_size // 2)
        case "rewritten":
            before = path.stat().st_mtime_ns
            np.save(path, NUMBERS + 1)
            os.utime(path, ns=(before + 1, before + 1))
        case "touched":
            os.utime(path, ns=(1, 1))
        case "gone":
            path.unlink()
        case _:
            path.unlink()
            np.save(path, NUMBERS[:3])
    for index in (slice(0, 2), slice(20, 23), torch.tensor([22, 1])):
        with pytest.raises(SpecError, match="E0850"):
            rows[index]
