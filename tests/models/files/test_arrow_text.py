"""Large tables in text by pyarrow and by Python: the same columns, whatever their cells look like."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.data import derived_rows
from curvlang.models.files import arrow_text, delimited
from curvlang.models.files.files import read_table

pytest.importorskip("pyarrow")

COLUMNS = {
    "integers": ["0", "-7", "007", str(2**63 - 1)],
    "least": ["1", "2", "3", str(-(2**63))],
    "beyond": ["1", "2", "3", str(2**63)],
    "zero": ["-0", "0", "-0", "1"],
    "zeros": ["-0", "0", "0.0", "-0"],
    "signs": ["+5", "5", "-5", "5"],
    "spaces": [" 5", "5 ", "\t5", "5"],
    "hex": ["0x10", "1", "2", "3"],
    "hexes": ["1", "2", "3", "0X1F"],
    "grouped": ["1_0", "1", "2", "3"],
    "late": ["1", "2", "3", "4.5"],
    "last": ["1", "2", "3", "word"],
    "floats": ["1e400", "-1e-400", ".5", "5."],
    "exact": ["9007199254740993", "0.1", "2.2250738585072011e-308", "1e23"],
    "odd": ["nan", "inf", "-Infinity", "1"],
    "payload": ["nan(1)", "1", "2", "3"],
    "empty": ["", "1", "2", "3"],
    "texts": [" cat", "dog ", "é", "cat"],
    "digits": ["٣", "1", "2", "3"],
}


@pytest.fixture(autouse=True)
def large(monkeypatch, tmp_path):
    """Every table counts as large, and is read in small pieces."""
    monkeypatch.setattr(derived_rows, "HELD", 1)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))


def read(path, monkeypatch, *, by_arrow):
    if by_arrow:
        monkeypatch.setattr(delimited.DelimitedText, "columns", None)
    else:
        monkeypatch.setattr(delimited, "arrow_blocks", lambda *given: None)
    table = read_table(path)
    found = {name: table[name] for name in table}
    monkeypatch.undo()
    return {k: x if isinstance(x, list) else x[:] for k, x in found.items()}


def same(x, y) -> bool:
    if isinstance(x, list) or isinstance(y, list):
        return x == y
    if x.dtype != y.dtype:
        return False
    return bool(torch.equal(x.view(torch.int64), y.view(torch.int64)))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_every_kind_of_cell(delimiter, end, tmp_path, monkeypatch):
    chosen = {k: x for k, x in COLUMNS.items() if delimiter == "," or k != "spaces"}
    lines = [delimiter.join(chosen), *map(delimiter.join, zip(*chosen.values(), strict=True))]
    path = tmp_path / ("t.csv" if delimiter == "," else "t.tsv")
    path.write_bytes(("\ufeff" + end.join([*lines[:2], "", *lines[2:]])).encode())
    monkeypatch.setattr(arrow_text, "_PIECE", 256)
    assert arrow_text.arrow_blocks(path, delimiter, list(chosen)) is not None
    monkeypatch.setattr(derived_rows, "HELD", 1)
    fast = read(path, monkeypatch, by_arrow=True)
    monkeypatch.setattr(derived_rows, "HELD", 1)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    plain = read(path, monkeypatch, by_arrow=False)
    assert [k for k in plain if not same(fast[k], plain[k])] == []


def test_numbers_of_many_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2000, 3)), rng.integers(0, 9, 2000)
    path = tmp_path / "t.csv"
    rows = [",".join([*map(repr, r.tolist()), str(k)]) for r, k in zip(x, y, strict=True)]
    path.write_text("\n".join(["a,b,c,y", *rows]))
    monkeypatch.setattr(arrow_text, "_PIECE", 4096)
    table = read_table(path)
    for k, name in enumerate("abc"):
        assert torch.equal(table[name][:], torch.tensor(x[:, k]))
    assert torch.equal(table["y"][:], torch.tensor(y))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a,b\n1,2\n3\n", "line 3 has 1 fields"),
        (b"a,b\n1,2\n3,4,5\n", "line 3 has 3 fields"),
        (b"a,b\n1,2\n3,\xff\n", "is not UTF-8"),
        (b"a,b\n1,2\n3,\x00\n", "zero bytes"),
    ],
)
def test_what_is_wrong_is_said_as_python_finds_it(text, said, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text)
    with pytest.raises(SpecError, match="E0552") as told:
        read_table(path)["b"]
    assert said in told.value.diagnostics[0].headline


def test_quoted_fields_are_left_to_python(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x,y"\n2,"q"\n')
    assert read_table(path)["b"] == ["x,y", "q"]
