"""Damaged, hostile and odd files of data and weights: read right or refused, never another exception."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from curvlang.diagnostics.diagnostic import SpecError
from curvlang.models.architectures import weights
from curvlang.models.architectures.weights import read_weights, with_weights
from curvlang.models.files import file_columns
from curvlang.models.files.files import read_table
from curvlang.models.user_code import user_model
from tests.models.support import assert_refused, file_data

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 3
CODES = {"E0552", "E0553", "E0554", "E0412"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_read_or_refused(path):
    for loss in ("cross_entropy", "mse"):
        try:
            data = file_data(str(path), loss=loss)
        except SpecError as error:
            (found,) = error.diagnostics
            assert found.code in CODES
            assert found.help
            assert "\n" not in found.headline
        else:
            X, y = data.train
            assert len(X) == len(y)
            assert torch.isfinite(X.double()).all()


def archive(members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def member(header, content=b"", version=(1, 0)):
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + content


def arrays(method=False):
    buffer = io.BytesIO()
    (np.savez_compressed if method else np.savez)(buffer, X=X, y=Y)
    return buffer.getvalue()


def table(columns):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns), buffer)
    return buffer.getvalue()


def whole_file(kind):
    rows = [",".join(map(str, [*x.tolist(), int(y)])) for x, y in zip(X, Y, strict=True)]
    text = "\n".join(["a,b,c,y", *rows]).encode()
    match kind:
        case "csv":
            return text
        case "tsv":
            return text.replace(b",", b"\t")
        case "npz":
            return arrays()
        case "packed.npz":
            return arrays(method=True)
        case "safetensors":
            return save({"X": X, "y": Y})
        case _:
            return table({"a": X[:, 0], "b": X[:, 1], "y": Y})


KINDS = ("csv", "tsv", "npz", "packed.npz", "safetensors", "parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_or_with_other_bytes(kind):
    content = whole_file(kind)
    draw = random.Random(kind)
    path = Path(f"x.{kind}")
    path.write_bytes(content)
    assert len(file_data(str(path)).train[0]) == 11
    for cut in (0, 1, 5, 9, *(len(content) * k // 12 for k in range(12)), len(content) - 1):
        path.write_bytes(content[:cut])
        assert_read_or_refused(path)
    for k in range(30):
        near = (
            draw.randrange(len(content)),
            draw.randrange(64),
            len(content) - draw.randrange(1, 64),
        )
        changed = bytearray(content)
        changed[near[k % 3]] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        assert_read_or_refused(path)
    for other in KINDS:
        path.write_bytes(whole_file(other))
        assert_read_or_refused(path)
    path.write_bytes(b"\0" * 200)
    assert_refused("E0552", lambda: read_table(path), "cannot be read")


HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3.0, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': ([3], 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 65 + "), }",
    "{'descr': '<f4', 'fortran_order': False, }",
    "{1: 2, 'fortran_order': False, 'shape': (3, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': [('a', '<f4'), ('b', '<i4')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': ('<f4', (2, 2)), 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<U0', 'fortran_order': False, 'shape': (300000000000,), }",
    "{'descr': '<U999999999', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|V8', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': '<M8[D]', 'fortran_order': False, 'shape': (6,), }",
    "{'descr': 'banana', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': 17, 'fortran_order': False, 'shape': (3,), }",
    "__import__('pathlib').Path('ran').touch()",
    "(" * 3000 + ")" * 3000,
    "-" * 5000 + "1",
    "None",
    "",
)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
def test_headers_of_arrays(version):
    y = ("y.npy", member(HEADERS[0].replace("1000000000000, 4", "12,"), b"\0" * 48))
    for header in HEADERS:
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            content = archive([("X.npy", member(header, b"\0" * 48, version)), y], method)
            Path("x.npz").write_bytes(content)
            assert_refused("E0552", lambda: file_data("x.npz"), "cannot be read")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("where", "at", "value"),
    [
        (b"PK\1\2", 8, 1), (b"PK\1\2", 8, 32), (b"PK\1\2", 10, 99), (b"PK\1\2", 10, 9), (b"PK\1\2", 6, 99),
        (b"PK\1\2", 24, 3), (b"PK\1\2", 42, 9999), (b"PK\5\6", 10, 999), (b"PK\5\6", 20, 999),
    ],
)  # fmt: skip
def test_archives_that_lie(where, at, value):
    content = bytearray(arrays())
    place = content.find(where) + at
    content[place : place + 2] = value.to_bytes(2, "little")
    Path("x.npz").write_bytes(content)
    assert_read_or_refused("x.npz")


def test_members_that_are_no_arrays_and_names_that_come_twice():
    good = ("X.npy", member(HEADERS[0].replace("1000000000000, 4", "3, 4"), b"\0" * 48))
    Path("x.npz").write_bytes(archive([("readme.txt", b"hello"), good]))
    assert_refused("E0552", lambda: read_table(Path("x.npz")), "`readme.txt` in it is not an array")
    Path("x.npz").write_bytes(archive([("X.npy", pickle.dumps([1]))]))
    assert_refused("E0552", lambda: read_table(Path("x.npz"))["X"], "cannot be read")
    with pytest.warns(UserWarning, match="Duplicate"):
        Path("x.npz").write_bytes(archive([good, good]))
    assert_refused("E0552", lambda: read_table(Path("x.npz")), "two arrays")


def test_what_a_file_declares_is_compared_with_memory_before_it_is_allocated(monkeypatch):
    monkeypatch.setattr(file_columns, "free_memory", lambda: 50_000)
    np.savez_compressed("x.npz", X=np.zeros((10_000, 2), np.int8), y=Y)
    read_table(Path("x.npz"))["y"]
    assert_refused("E0552", lambda: read_table(Path("x.npz"))["X"], "takes 156.2 KiB", "are free")
    Path("x.csv").write_text("a,y\n" + "1,0\n" * 10_000)
    assert_refused("E0552", lambda: read_table(Path("x.csv")), "takes", "are free")
    Path("x.parquet").write_bytes(table({"a": np.zeros(100_000, np.int8)}))
    assert Path("x.parquet").stat().st_size < 5_000
    assert_refused("E0552", lambda: read_table(Path("x.parquet"))["a"], "takes 781.2 KiB")
    torch.save({"w": torch.zeros(100_000)}, "x.pt")
    monkeypatch.setattr(weights, "free_memory", lambda: 50_000)
    assert_refused("E0555", lambda: read_weights(Path("x.pt")), "it takes 3", "are free")


def test_names_and_kinds_that_are_no_files():
    os.mkfifo("pipe.csv")
    Path("loop.csv").symlink_to("loop.csv")
    Path("device.csv").symlink_to("/dev/zero")
    Path("folder.csv").mkdir()
    Path("folder.pt").mkdir()
    cases = {
        "x" * 300 + ".csv": "cannot be opened", "/".join(["d" * 200] * 30) + "/x.csv": "cannot be opened",
        "a\0b.csv": "does not exist", "pipe.csv": "not a regular file", "loop.csv": "",
        "device.csv": "not a regular file", "folder.csv": "is a folder", "no.csv": "does not exist",
    }  # fmt: skip
    for name, words in cases.items():
        assert_refused("E0552", lambda name=name: read_table(Path(name)), words)
    for name in ("x" * 300 + ".pt", "a\0b.pt", "folder.pt"):
        assert_refused("E0555", lambda name=name: read_weights(Path(name)))


def columns_of_arrow():
    arrow = pytest.importorskip("pyarrow")
    kinds = {
        "date": arrow.array([2**31 - 1] * 6, arrow.date32()),
        "nanoseconds": arrow.array([1] * 6, arrow.timestamp("ns")),
        "zone": arrow.array([1] * 6, arrow.timestamp("us", "Mars/Phobos")),
        "duration": arrow.array([2**62] * 6, arrow.duration("s")),
        "decimal": arrow.array([1] * 6, arrow.decimal128(10, 2)),
        "bytes": arrow.array([b"a"] * 6),
        "structure": arrow.array([{"a": 1.0}] * 6),
        "texts in lists": arrow.array([["a"]] * 6),
        "no text": arrow.Array.from_buffers(
            arrow.string(), 6, arrow.array([b"\xff"] * 6, arrow.binary()).buffers()
        ),
        "gap in a list": arrow.array([[1.0, None]] * 6),
        "empty lists": arrow.array([[]] * 6, arrow.list_(arrow.float32())),
    }
    return [*kinds.items()]


def test_columns_of_arrow_that_are_no_numbers_are_refused_where_they_are_used():
    for name, column in columns_of_arrow():
        Path("x.parquet").write_bytes(table({name: column, "a": X[:6, 0], "y": Y[:6]}))
        with pytest.raises(SpecError) as caught:
            file_data("x.parquet")
        assert caught.value.diagnostics[0].code in {"E0552", "E0553"}
        found = file_data("x.parquet", inputs=["a"], test=0.5)
        assert found.train[0].shape == (3, 1)


def test_columns_of_arrow_keep_their_values():
    arrow = pytest.importorskip("pyarrow")
    Path("x.parquet").write_bytes(
        table(
            {
                "a.b": arrow.array([[[1.0, 2.0]], [[3.0, 4.0]]]), "n": arrow.array([1, 2**53 + 1]),
                "word": arrow.array(["x", "y"]).dictionary_encode(), "flag": arrow.array([True, False]),
            }
        )
    )  # fmt: skip
    found = read_table(Path("x.parquet"))
    assert found["a.b"].tolist() == [[[1.0, 2.0]], [[3.0, 4.0]]]
    assert found["n"].tolist() == [1, 2**53 + 1]
    assert found["word"] == ["x", "y"]
    assert found["flag"].tolist() == [1, 0]


def header(value, content=b""):
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize("kind", ["F8_E4M3", "F4", "C64", "U16", "U64", "BOOL", "F33"])
@pytest.mark.parametrize("shape", [[3, 4], [10**12, 4], [2**63, 2**63], [-3, 4], [1] * 70 + [3, 4]])
def test_headers_of_safetensors(kind, shape):
    width = {"F8_E4M3": 1, "F4": 0.5, "C64": 8, "U16": 2, "U64": 8, "BOOL": 1, "F33": 4}[kind]
    size = int(12 * width)
    entry = {"X": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}
    entry |= {"y": {"dtype": "I64", "shape": [3], "data_offsets": [size, size + 24]}}
    Path("x.safetensors").write_bytes(header(entry, b"\0" * (size + 24)))
    assert_read_or_refused("x.safetensors")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,y\n" + "9" * 400 + ",0\n1,1\n", ("infinite",)),
        ("a,y\n" + "9" * 5000 + ",0\n1,1\n", ("infinite",)),
        ("a,y\n1e39,0\n1,1\n", ("float32 cannot hold",)),
        ("a,y\n1_0,0\n1,1\n", ("`1_0` at row 1",)),
        ("a,y\n1,99999999999\n1,1\n", ("the class 99999999999 at row 1",)),
        ("a,y\n1,1e300\n1,1\n", ("at row 1",)),
        ('a,y\n1,0\n"1\n2",1\n', ("`1 2` at row 2",)),
        ('a,y\n1,0\n"1\n\n2",1\n3\n', ("line 6 has 1 fields",)),
        ('a,y\n1,0\n"1,1\n', ("line 3",)),
        ("\ufeff" + "a,y\r1,0\r2,1\r3,0\r\n", ()),
    ],
)  # fmt: skip
def test_tables_in_text(text, words):
    Path("x.csv").write_bytes(text.encode())
    if not words:
        assert read_table(Path("x.csv"))["a"].tolist() == [1, 2, 3]
        return
    with pytest.raises(SpecError) as caught:
        file_data("x.csv", test=0.5)
    assert caught.value.diagnostics[0].code in CODES
    for word in words:
        assert word in caught.value.diagnostics[0].headline


def test_a_hundred_thousand_columns():
    Path("x.csv").write_text(
        ",".join(f"c{k}" for k in range(10**5)) + "\n" + "1," * (10**5 - 1) + "0\n"
    )
    found = read_table(Path("x.csv"))
    assert found["c99999"].tolist() == [0]


class Tied(torch.nn.Module):
    """A parameter under two names, as language models have it."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_a_tied_parameter_is_there_under_any_of_its_names():
    state = {k: v.clone() for k, v in Tied().state_dict().items()}
    for name in state:
        torch.save({name: state[name] + 1}, "x.pt")
        found = with_weights(Tied(), Path("x.pt"))
        assert torch.equal(found.head.weight, state[name] + 1)
        assert found.head.weight is found.embedding.weight
    torch.save(state, "x.pt")
    assert torch.equal(with_weights(Tied(), Path("x.pt")).head.weight, state["head.weight"])
    torch.save({**state, "head.weight": state["head.weight"] + 1}, "x.pt")
    assert_refused(
        "E0556",
        lambda: with_weights(Tied(), Path("x.pt")),
        "are one tensor in the model and differ",
    )
    torch.save({}, "x.pt")
    assert_refused("E0556", lambda: with_weights(Tied(), Path("x.pt")), "missing", "head.weight")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_cut_short_or_with_other_bytes(suffix):
    path = Path(f"x{suffix}")
    model = torch.nn.Linear(3, 2)
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        path.write_bytes(save({k: v.numpy() for k, v in model.state_dict().items()}))
    content = path.read_bytes()
    draw = random.Random(suffix)
    damaged = [content[: len(content) * k // 20] for k in range(20)]
    for _ in range(40):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        code = "read"
        try:
            with_weights(torch.nn.Linear(3, 2), path)
        except SpecError as error:
            code = error.diagnostics[0].code
        assert code in {"read", "E0555", "E0556"}


def test_weights_of_other_kinds():
    one = torch.nn.Linear(3, 2)
    state = one.state_dict()
    refused = {
        "sparse, quantized": {**state, "weight": state["weight"].to_sparse()},
        "`weight` is `torch.complex64`": {**state, "weight": state["weight"] * 1j},
        'drop `module.` in front': {f"module.{k}": v for k, v in state.items()},
        "`weight` is [1000000000000, 3]": {**state, "weight": torch.zeros(1).expand(10**12, 3)},
    }  # fmt: skip
    for words, held in refused.items():
        torch.save(held, "x.pt")
        with pytest.raises(SpecError) as caught:
            with_weights(torch.nn.Linear(3, 2), Path("x.pt"))
        (found,) = caught.value.diagnostics
        assert words in " ".join((found.headline, *found.help, *found.notes))


def saved_data_set(folder, columns, files=2):
    """What `Dataset.save_to_disk` writes."""
    arrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    whole = arrow.table(columns)
    size = -(-len(whole) // files)
    names = [f"data-{k:05}-of-{files:05}.arrow" for k in range(files)]
    for k, name in enumerate(names):
        with (
            arrow.OSFile(str(folder / name), "wb") as sink,
            arrow.ipc.new_stream(sink, whole.schema) as writer,
        ):
            writer.write_table(whole.slice(k * size, size))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))


def test_a_data_set_saved_to_disk(folder):
    saved_data_set(folder / "d/train", {"ids": [[1, 2]] * 3 + [[3, 4]] * 4, "y": [0, 1] * 3 + [1]})
    found = read_table(folder / "d/train")
    assert found["ids"].tolist() == [[1, 2]] * 3 + [[3, 4]] * 4
    data = file_data("d/train", test=0.3)
    assert (data.train[0].dtype, data.train[0].shape) == (torch.int64, (5, 2))
    (folder / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert_refused("E0552", lambda: read_table(folder / "d"), "`train`, `test`", "d/train")
    (folder / "empty").mkdir()
    assert_refused("E0552", lambda: read_table(folder / "empty"), "save_to_disk")
    for content in ("[]", "{", '{"_data_files": [{"filename": "no.arrow"}]}', '{"_data_files": 3}'):
        (folder / "d/train/state.json").write_text(content)
        assert_refused("E0552", lambda: read_table(folder / "d/train"), "cannot be read")


def test_a_folder_of_weights_in_parts(folder):
    state = {k: v.numpy() + 1 for k, v in torch.nn.Linear(3, 2).state_dict().items()}
    (folder / "m").mkdir()
    assert_refused("E0555", lambda: read_weights(folder / "m"), "without safetensors files")
    for k, (name, value) in enumerate(state.items()):
        (folder / f"m/model-{k}.safetensors").write_bytes(save({name: value}))
    found = with_weights(torch.nn.Linear(3, 2), folder / "m")
    assert np.array_equal(found.weight.detach().numpy(), state["weight"])
    (folder / "m/config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    assert_refused(
        "E0556", lambda: with_weights(torch.nn.Linear(4, 2), folder / "m"), "`GPT2LMHeadModel`"
    )
    (folder / "m/more.safetensors").write_bytes(save({"bias": state["bias"]}))
    assert_refused("E0555", lambda: read_weights(folder / "m"), "two of its files hold `bias`")


def test_a_torchvision_of_another_build_is_named(folder, monkeypatch):
    (folder / "net_of_other_build.py").write_text(
        "def make():\n"
        "    try:\n"
        "        raise RuntimeError('operator torchvision::nms does not exist')\n"
        "    except RuntimeError as error:\n"
        "        raise ModuleNotFoundError('Could not import module') from error\n"
    )
    assert_refused(
        "E0551", lambda: user_model("net_of_other_build:make", {}, 0), "pip uninstall torchvision"
    )
