"""`cv.rows` gives what the file holds, and says why where it cannot."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import curvlang as cv
from tests.models.sources.support import N, X, Y, assert_same_results, network, nothing_fits

__all__ = ["nothing_fits"]

HALF = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", [">i2", "<i4", "u1", "u8", "?", ">f8", "f2", ">f4"])
def test_npy_and_npz_in_any_order_of_bytes(dtype: str, order: str, tmp_path: Path) -> None:
    array = np.arange(N * 6).reshape(N, 2, 3).astype(dtype).copy(order)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", other=array[0], x=array)
    native = array.astype(array.dtype.newbyteorder("="))
    whole = torch.from_numpy(native.astype("i8") if native.dtype.kind in "iu" else native)
    for rows in (cv.rows(tmp_path / "a.npy"), cv.rows(tmp_path / "a.npz", "x")):
        assert rows.dtype == whole.dtype
        for index in (slice(None), slice(3, 9), torch.tensor([4, 0, 0, 2])):
            assert torch.equal(rows[index], whole[index])


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.uint8, torch.bool, torch.int32])
def test_safetensors_of_every_type(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)).abs().mul(9).to(dtype)
    save_file({"x": x, "y": x[:, 0].contiguous()}, tmp_path / "a.safetensors")
    rows = cv.rows(tmp_path / "a.safetensors", "x")
    assert torch.equal(rows[:].double(), x.double())
    assert rows.dtype == (x.dtype if dtype not in (torch.float8_e4m3fn, torch.uint8, torch.int32)
                          else torch.float32 if dtype.is_floating_point else torch.int64)  # fmt: skip


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    parts = [X[:7], X[7:7], X[7:8], X[8:]]
    for k, part in enumerate(parts):
        np.save(tmp_path / f"{k}.npy", part)
    rows, whole = cv.rows([tmp_path / f"{k}.npy" for k in range(4)]), torch.from_numpy(X)
    for index in (
        slice(None),
        slice(5, 9),
        slice(8, 11),
        slice(4, 4),
        slice(0, None, 3),
        torch.tensor([20, 1, 7, 1]),
        torch.tensor([0, 6, 7, 23]),
        torch.tensor([], dtype=torch.int64),
    ):
        assert torch.equal(rows[index], whole[index]), index


def test_an_index_names_the_file_of_a_tensor(tmp_path: Path) -> None:
    save_file({"x": torch.from_numpy(X)}, tmp_path / "d-1.safetensors")
    save_file({"y": torch.from_numpy(Y)}, tmp_path / "d-2.safetensors")
    index = tmp_path / "d.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "d-1.safetensors", "y": "d-2.safetensors"}}))
    assert torch.equal(cv.rows(index, "y")[:], torch.from_numpy(Y))
    index.write_text(json.dumps({"weight_map": {"x": "../d-1.safetensors"}}))
    with pytest.raises(cv.SpecError, match="outside its folder"):
        cv.rows(index)


@pytest.mark.usefixtures("nothing_fits")
def test_a_task_of_files_gives_the_same_bits_as_one_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(">f8"))
    np.savez(tmp_path / "d.npz", y=Y.astype("u1"), x=np.asarray(X, order="F"))
    save_file({"x": torch.from_numpy(X)}, tmp_path / "x.safetensors")
    memory = cv.Task(network(), "cross_entropy", (X, Y), (X, Y))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    sources = (
        (cv.rows(tmp_path / "x.npy"), cv.rows(tmp_path / "d.npz", "y")),
        (cv.rows(tmp_path / "d.npz", "x"), Y),
        (X, cv.rows(tmp_path / "d.npz", "y")),
        (cv.rows(tmp_path / "x.safetensors"), Y),
        (mapped, Y),
        (cv.rows(tmp_path / "x.npy", transform=lambda x: 1 * x), torch.from_numpy(Y)),
    )
    for x, y in sources:
        for query in ((x, y), (X, Y)):
            task = cv.Task(network(), "cross_entropy", (x, y), query)
            assert any(isinstance(part, cv.StoredRows) for part in task.train)
            assert_same_results(memory, task)


@pytest.mark.usefixtures("nothing_fits")
def test_another_precision_is_as_of_rows_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype("f2"))
    task, memory = (
        cv.Task(network(), "cross_entropy", (x, Y), (x, Y))
        for x in (cv.rows(tmp_path / "x.npy"), torch.from_numpy(X).half().float())
    )
    assert_same_results(memory, task)
    assert_same_results(memory.to(dtype=torch.float64), task.to(dtype=torch.float64))


def test_rows_that_fit_are_read_once(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    task = cv.Task(network(), "cross_entropy", (cv.rows(tmp_path / "x.npy"), Y), (X, Y))
    assert isinstance(task.train[0], torch.Tensor)


REFUSED = {
    "missing": ("E0850", lambda d: cv.rows(d / "none.npy")),
    "folder": ("E0850", lambda d: cv.rows(d)),
    "suffix": ("E0851", lambda d: cv.rows(d / "x.csv")),
    "compressed": ("E0851", lambda d: cv.rows(d / "c.npz")),
    "name of npy": ("E0851", lambda d: cv.rows(d / "x.npy", "x")),
    "no name": ("E0851", lambda d: cv.rows(d / "d.npz")),
    "unknown name": ("E0851", lambda d: cv.rows(d / "d.npz", "z")),
    "one number": ("E0851", lambda d: cv.rows(d / "d.npz", "one")),
    "texts": ("E0851", lambda d: cv.rows(d / "d.npz", "texts")),
    "shapes": ("E0851", lambda d: cv.rows([d / "x.npy", d / "y.npy"])),
    "cut": ("E0552", lambda d: cv.rows(d / "cut.npy")),
    "damaged": ("E0552", lambda d: cv.rows(d / "damaged.npz", "x")),
    "not safetensors": ("E0552", lambda d: cv.rows(d / "bad.safetensors")),
    "path": ("E0563", lambda d: cv.rows(3)),  # type: ignore[arg-type]
    "name": ("E0563", lambda d: cv.rows(d / "d.npz", 3)),  # type: ignore[arg-type]
    "fewer": ("E0852", lambda d: cv.rows(d / "x.npy", transform=lambda x: x[:1])),
    "mixed": ("E0852", lambda d: cv.rows(d / "x.npy", transform=lambda x: x - x.mean(0))),
    "random": ("E0852", lambda d: cv.rows(d / "x.npy", transform=torch.rand_like)),
    "raises": ("E0852", lambda d: cv.rows(d / "x.npy", transform=lambda x: x.no)),
    "beyond": ("E0407", lambda d: cv.rows(d / "beyond.npy")[:]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_stay_in_its_file_is_refused(case: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "beyond.npy", np.array([2**63], "u8"))
    (tmp_path / "x.csv").write_text("1\n")
    np.savez(tmp_path / "d.npz", x=X, one=np.float32(1), texts=np.array(["a"]))
    np.savez(tmp_path / "damaged.npz", x=X)
    np.savez_compressed(tmp_path / "c.npz", x=X)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-5])
    (tmp_path / "bad.safetensors").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "damaged.npz") as archive:
        place = archive.getinfo("x.npy").header_offset + 300
    with (tmp_path / "damaged.npz").open("r+b") as file:
        file.seek(place)
        file.write(b"\x11\x22\x33")
    code, made = REFUSED[case]
    with pytest.raises(cv.SpecError, match=code):
        made(tmp_path)
