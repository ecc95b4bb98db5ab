"""Files larger than what is kept in memory: the same examples, read when they are asked for."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from curvlang.models.data import derived_rows
from curvlang.models.data.rows import StoredRows
from curvlang.models.files.delimited import DelimitedText
from curvlang.models.files.file_data import FileColumns
from curvlang.models.files.file_data import file_data as read
from curvlang.models.files.files import read_table
from curvlang.storage import scratch
from tests.models.support import assert_refused

pa = pytest.importorskip("pyarrow")
N = 301


@pytest.fixture
def small_memory(monkeypatch, tmp_path):
    """Nothing above 300 bytes of rows stays in memory."""
    monkeypatch.setattr(derived_rows, "HELD", 300)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def columns() -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.standard_normal((N, 2, 3)).astype("f4"),
        "a": rng.standard_normal(N),
        "b": rng.integers(0, 9, N),
        "flag": rng.random(N) < 0.5,
        "y": rng.integers(0, 3, N),
        "word": np.array(["cat", "dog", "emu"])[rng.integers(0, 3, N)],
        "split": np.where(np.arange(N) % 4 == 3, "query", "train"),
    }


def _csv(path, columns) -> None:
    names = [k for k, x in columns.items() if x.ndim == 1 and x.dtype != bool]
    lines = [",".join(names)]
    lines += [",".join(str(columns[k][n]) for k in names) for n in range(N)]
    path.write_text("\n".join(lines) + "\n")


def _parquet(path, columns, rows=64) -> None:
    from pyarrow import parquet

    parquet.write_table(_table(columns), path, row_group_size=rows)


def _table(columns):
    return pa.table({k: pa.array(x.tolist() if x.ndim > 1 else x) for k, x in columns.items()})


def _streamed(path, table, rows) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=rows)


def _saved(folder, columns) -> None:
    folder.mkdir()
    table = _table(columns)
    for k, part in enumerate((table.slice(0, 200), table.slice(200))):
        _streamed(folder / f"{k}.arrow", part, 37)
    state = {"_data_files": [{"filename": f"{k}.arrow"} for k in (0, 1)]}
    (folder / "state.json").write_text(json.dumps(state))


WRITERS = {"t.csv": _csv, "t.parquet": _parquet, "t": _saved}


def _asked(name: str, **given) -> FileColumns:
    usual = {
        "inputs": ["a", "b"], "target": ["y"], "query": "none", "split": "split", "test": 0.1, "seed": 0,
        "scale": "none",
    }  # fmt: skip
    return FileColumns(name, **{**usual, **given})


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "given", [{}, {"target": ["word"]}, {"scale": "standard"}, {"split": "none"}]
)
def test_large_files_give_the_same_examples(tmp_path, columns, name, given, monkeypatch) -> None:
    WRITERS[name](tmp_path / name, columns)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    wanted = read(_asked(name, **given), "cross_entropy", tmp_path)
    monkeypatch.setattr(derived_rows, "HELD", 300)
    found = read(_asked(name, **given), "cross_entropy", tmp_path)
    rows = torch.tensor([3, 200, 0, 3])
    for large, small in zip(
        (*found.train, *found.query), (*wanted.train, *wanted.query), strict=True
    ):
        assert large.dtype == small.dtype
        assert torch.allclose(large[:], small, rtol=1e-6, atol=0)
        assert torch.equal(large[rows % len(large)], large[:][rows % len(large)])
    assert isinstance(found.train[0], StoredRows)


@pytest.mark.parametrize("name", ["t.parquet", "t"])
def test_columns_of_lists_stay_in_their_file(tmp_path, columns, name, small_memory) -> None:
    WRITERS[name](tmp_path / name, columns)
    table = read_table(tmp_path / name)
    image, flag = table["image"], table["flag"]
    assert isinstance(image, StoredRows)
    assert (image.shape, image.dtype) == (torch.Size((N, 2, 3)), torch.float64)
    assert np.array_equal(image[:].numpy(), columns["image"].astype("f8"))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(image[order].numpy(), columns["image"][order.numpy()].astype("f8"))
    assert np.array_equal(image[5:290:7].numpy(), columns["image"][5:290:7].astype("f8"))
    assert image[:0].shape == (0, 2, 3)
    assert flag.dtype == torch.int64
    assert flag[:].tolist() == columns["flag"].astype(int).tolist()


@pytest.mark.parametrize("name", ["t.parquet", "t"])
def test_large_columns_that_are_not_rows_are_refused(tmp_path, columns, name, small_memory) -> None:
    bad = {
        "gap": pa.array([1.0] * 250 + [None] * (N - 250)),
        "uneven": pa.array([[1.0, 2.0]] * 250 + [[1.0]] * (N - 250)),
        "inner": pa.array([[1.0, 2.0]] * 250 + [[1.0, None]] * (N - 250)),
        "when": pa.array([0] * N, pa.timestamp("s")),
        "category": pa.array(["a", "b", "a"] * 100 + ["a"]).dictionary_encode(),
        "counts": pa.array([5, 6, 5] * 100 + [5]).dictionary_encode(),
        "past": pa.array([1] * 250 + [2**63 + 5] * (N - 250), pa.uint64()),
    }
    table = pa.table(bad)
    if name == "t":
        monkey = {k: x for k, x in bad.items() if k not in ("category", "counts")}
        table = pa.table(monkey)
        (tmp_path / name).mkdir()
        _streamed(tmp_path / name / "0.arrow", table, 50)
        (tmp_path / name / "state.json").write_text('{"_data_files": [{"filename": "0.arrow"}]}')
    else:
        from pyarrow import parquet

        parquet.write_table(table, tmp_path / name, row_group_size=60)
    found = read_table(tmp_path / name)
    assert_refused("E0552", lambda: found["gap"], "no value at row 251")
    assert_refused("E0552", lambda: found["uneven"], "differ in length")
    assert_refused("E0552", lambda: found["inner"], "no value at a place")
    assert_refused("E0552", lambda: found["when"], "timestamp")
    assert_refused("E0552", lambda: found["past"], "beyond 2⁶³")
    if name == "t.parquet":
        assert found["category"][:3] == ["a", "b", "a"]
        assert found["counts"][:].tolist()[:4] == [5, 6, 5, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n" + "1,2\n" * 200 + "1\n", ("line 202 has 1 fields",)),
        ("a,a\n" + "1,2\n" * 200, ("first row",)),
        ("a,b\n" + "1,2\n" * 200 + '"1,2\n', ("line",)),
        ("a,b\n" + "1,2\n" * 200 + "\0,2\n", ("zero bytes",)),
    ],
)
def test_large_tables_that_are_damaged_are_refused(tmp_path, small_memory, text, words) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert_refused("E0552", lambda: read_table(tmp_path / "t.csv"), *words)


def test_the_first_byte_that_is_not_text_is_named(tmp_path, small_memory) -> None:
    content = b"\xef\xbb\xbfa,b\n" + b"1,2\n" * 5000
    (tmp_path / "t.csv").write_bytes(content + b"\xff,2\n")
    assert_refused(
        "E0552", lambda: read_table(tmp_path / "t.csv"), f"byte {len(content)} is not UTF-8"
    )


def test_columns_are_of_one_kind_over_all_their_rows(tmp_path, small_memory) -> None:
    body = ["1,1,x,7,1_0"] * 5000 + ["2,2.5,1,9223372036854775808,2"]
    (tmp_path / "t.csv").write_text("\n".join(["i,f,t,big,name", *body]) + "\n")
    table = read_table(tmp_path / "t.csv")
    kinds = {name: getattr(table[name], "dtype", str) for name in table}
    assert kinds == {
        "i": torch.int64,
        "f": torch.float64,
        "t": str,
        "big": torch.float64,
        "name": str,
    }
    assert table["f"][4999:5001].tolist() == [1.0, 2.5]
    assert table["t"][-1] == "1"


def test_a_file_that_changes_while_its_rows_are_read_is_refused(
    tmp_path, columns, small_memory
) -> None:
    _saved(tmp_path / "t", columns)
    image = read_table(tmp_path / "t")["image"]
    os.truncate(tmp_path / "t" / "1.arrow", 100)
    assert_refused("E0850", lambda: image[:3], "has changed")


def test_files_of_rows_are_gone_with_their_process(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path))
    (tmp_path / ".rows.dead.partial").mkdir()
    with scratch.scratch_file(".x") as (path, file):
        file.write(b"1")
    assert path.read_bytes() == b"1"
    assert not (tmp_path / ".rows.dead.partial").exists(), "what a killed process left is removed"
    pid = os.fork()
    if not pid:
        scratch.atexit._run_exitfuncs()
        os._exit(0)
    os.waitpid(pid, 0)
    assert path.exists(), "a forked process leaves the folder to its parent"


def test_a_table_in_text_is_read_a_part_at_a_time(tmp_path, small_memory) -> None:
    (tmp_path / "t.csv").write_text("a\n" + "1\n" * 10_000)
    sizes = [len(block) for block in DelimitedText(tmp_path / "t.csv", ",").blocks()]
    assert max(sizes) == 4096
    assert sum(sizes) == 10_000
