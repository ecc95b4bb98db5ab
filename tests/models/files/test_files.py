"""Data and weights from files: what they hold is what the task has, and every mistake is named."""

from __future__ import annotations

import csv
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import curvlang as cv
from curvlang.language import loads, part_text
from curvlang.models.architectures.weights import read_weights, with_weights
from curvlang.models.files.files import read_table
from tests.models.support import assert_refused, file_data

X = np.random.default_rng(0).normal(size=(12, 3))
Y = np.arange(12) % 3
NAMES = ["red", "blue", "green"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.endswith(".tsv") else ",")
        writer.writerow(header)
        writer.writerows(rows)


def written(suffix):
    path = f"x{suffix}"
    columns = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": Y}
    match suffix:
        case ".npz":
            np.savez(path, X=X, y=Y)
        case ".safetensors":
            save_file({"X": torch.tensor(X), "y": torch.tensor(Y)}, path)
        case ".parquet":
            arrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(arrow.table(columns), path)
        case _:
            write_csv(path, [*columns], zip(*columns.values(), strict=True))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".tsv", ".parquet", ".safetensors"])
def test_every_kind_of_file_gives_the_same_examples(suffix):
    data = file_data(written(suffix), test=0.25, seed=3)
    assert (len(data.train[0]), len(data.query[0]), data.outputs, data.inputs) == (9, 3, 3, 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    rows = torch.cat([order[:9].sort().values, order[9:].sort().values])
    assert torch.equal(torch.cat([data.train[0], data.query[0]]), torch.tensor(X).float()[rows])
    assert torch.equal(torch.cat([data.train[1], data.query[1]]), torch.tensor(Y)[rows])


def test_queries_from_a_second_file_or_a_column():
    np.savez("a.npz", X=X, y=Y)
    np.savez("b.npz", X=X[:2] + 1, y=Y[:2])
    two = file_data("a.npz", query="b.npz")
    assert torch.equal(two.train[0], torch.tensor(X).float())
    assert torch.equal(two.query[0], torch.tensor(X[:2] + 1).float())
    words = ["train"] * 7 + ["test", "query"] + ["train"] * 3
    write_csv("s.csv", ["a", "y", "part"], zip(X[:, 0], Y, words, strict=True))
    held = file_data("s.csv", split="part")
    assert held.query[1].tolist() == Y[7:9].tolist()
    assert held.inputs == 1


def test_texts_are_classes_and_numbers_are_targets():
    write_csv(
        "n.csv", ["a", "b", "kind"], zip(X[:, 0], X[:, 1], [NAMES[k] for k in Y], strict=True)
    )
    data = file_data("n.csv", target=["kind"], test=0.25)
    assert data.outputs == 3
    assert set(data.train[1].tolist()) == {0, 1, 2}
    wanted = {"blue": 0, "green": 1, "red": 2}
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:9].sort().values
    assert data.train[1].tolist() == [wanted[NAMES[Y[k]]] for k in order.tolist()]
    write_csv("r.csv", ["a", "b", "c"], X)
    both = file_data("r.csv", inputs=["a"], target=["b", "c"], loss="mse")
    assert (both.outputs, both.train[1].shape[1]) == (2, 2)
    assert both.train[1].dtype == torch.float32


def test_tokens_stay_integers_and_images_keep_their_shape():
    tokens = np.arange(24).reshape(12, 2)
    np.savez("t.npz", X=tokens, y=np.roll(tokens, -1, 1))
    data = file_data("t.npz")
    assert data.train[0].dtype == torch.int64
    assert data.train[1].shape[1:] == (2,)
    np.savez("i.npz", X=np.zeros((12, 1, 4, 4), np.float32), y=Y)
    assert file_data("i.npz").shape == (1, 4, 4)


def test_scale_is_that_of_the_training_part():
    data = file_data(written(".csv"), scale="standard")
    assert float(data.train[0].mean(0).abs().max()) < 1e-6
    assert float(data.query[0].mean(0).abs().max()) > 1e-3


def test_a_spec_reads_files_beside_itself(folder, monkeypatch):
    sub = folder / "specs"
    sub.mkdir()
    np.savez(sub / "x.npz", X=X, y=Y)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 3))
    save_file(model.state_dict(), sub / "w.safetensors")
    text = """
    task mine {
      data file("x.npz", target = y)
      model mlp(hidden = [2], bias = true, weights = "w.safetensors")
      loss cross_entropy
      train sgd(epochs = 1)
    }
    evaluate ggn on mine
    """
    spec = loads(text, str(sub / "mine.cv"))
    task = cv.task(spec.evaluations[0].task, train=True)
    for name, p in task.model.named_parameters():
        assert torch.equal(p, model.state_dict()[name])
    # Retraining starts from a seed, not from the weights of the file.
    assert not torch.equal(next(task.build(0).parameters()), next(task.model.parameters()))


BAD_FILES = [
    ("no.csv", None, "E0552", "does not exist"),
    ("x.xls", b"a", "E0552", "`*.xls` are not read"),
    ("x.csv", b"", "E0552", "empty"),
    ("x.csv", b"a,y\n1,2\n3\n", "E0552", "line 3 has 1 fields, the first row names 2"),
    ("x.csv", b"a,a\n1,2\n", "E0552", "does not name every column once"),
    ("x.csv", b"\xff\xfe\x00a", "E0552", "not text (byte 0 is not UTF-8)"),
    ("x.csv", b"a,y\n1\x00,2\n", "E0552", "zero bytes"),
    ("x.npz", b"PK not really", "E0552", "cannot be read"),
    ("x.safetensors", b"\x10" * 40, "E0552", "not a safetensors file"),
    ("x.csv", b"a,b\n1,2\n2,3\n", "E0553", "no column `y`"),
    ("x.csv", b"a,b\n1,2\n2,3\n", "E0553", 'file("x.csv", inputs = [COLUMN, …], target = COLUMN)'),
    ("x.csv", b"a,y\n1,0\nred,1\n", "E0553", "column `a` has `red` at row 2"),
    ("x.csv", b"a,y\n1,0\n,1\n", "E0553", "column `a` has nothing at row 2"),
    ("x.csv", b"a,y\n1,0\n2,0.5\n", "E0553", "0.5 at row 2, which is not a class number"),
    ("x.csv", b"a,y\n1,0\n2,-1\n", "E0553", "the class -1 at row 2"),
    ("x.csv", b"a,y\n1,0\nnan,1\n", "E0554", "column `a` of `x.csv` has 1 values that are NaN"),
    ("x.csv", b"y\n0\n1\n", "E0553", "no column is left for the inputs"),
    ("x.csv", b"a,y\n1,0\n", "E0412", "1 examples are too few"),
    ("x.csv", b"a,y\n", "E0412", "0 examples are too few"),
]


@pytest.mark.parametrize(("name", "content", "code", "words"), BAD_FILES)
def test_bad_files(name, content, code, words):
    if content is not None:
        Path(name).write_bytes(content)
    assert_refused(code, lambda: file_data(name), words)


def test_bad_arrays():
    np.savez("o.npz", X=np.array([{}, {}], dtype=object), y=[0, 1])
    assert_refused("E0552", lambda: file_data("o.npz"), "pickled objects are not loaded")
    np.save("x.npy", X)
    Path("x.npy").rename("x.npz")
    assert_refused("E0552", lambda: file_data("x.npz"), "np.savez")
    np.savez("c.npz", X=X.astype(complex), y=Y)
    assert_refused("E0552", lambda: file_data("c.npz"), "`X` holds `complex128`")
    np.savez("l.npz", X=X[:5], y=Y)
    assert_refused("E0553", lambda: file_data("l.npz"), "`X` has 5 rows and `y` 12")
    np.savez("d.npz", X=X, y=Y, n=3)
    assert_refused("E0553", lambda: file_data("d.npz"), "`n` is one number")
    np.savez("a.npz", X=X, y=Y)
    np.savez("b.npz", X=X[:, :2], y=Y)
    assert_refused("E0553", lambda: file_data("a.npz", query="b.npz"), "[3]", "[2]")
    assert_refused("E0553", lambda: file_data("a.npz", query="b.npz", split="y"), "give one")
    assert_refused("E0553", lambda: file_data("a.npz", split="y"), "`0` at row 1")
    assert_refused("E0553", lambda: file_data("a.npz", inputs=["X", "y"]), "input and the target")
    assert_refused("E0553", lambda: file_data("a.npz", inputs=["Z"]), "no column `Z`")


def test_parquet_with_gaps_ragged_lists_or_without_its_package(monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"a": [1.0, None], "y": [0, 1]}), "gap.parquet")
    assert_refused("E0552", lambda: file_data("gap.parquet"), "column `a` has no value at row 2")
    parquet.write_table(arrow.table({"a": [[1.0], [1.0, 2.0]], "y": [0, 1]}), "r.parquet")
    assert_refused("E0552", lambda: file_data("r.parquet"), "lists of column `a` differ in length")
    parquet.write_table(arrow.table({"a": [[1.0, 3.0], [1.0, 2.0]]}), "l.parquet")
    assert read_table(Path("l.parquet"))["a"].shape == (2, 2)
    Path("b.parquet").write_bytes(b"nothing")
    assert_refused("E0552", lambda: file_data("b.parquet"), "cannot be read")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert_refused("E0552", lambda: file_data("l.parquet"), 'pip install "curvlang[parquet]"')


def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 3))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_come_back(suffix):
    path, trained = Path(f"w{suffix}"), model()
    if suffix == ".pt":
        torch.save(trained.state_dict(), path)
    else:
        save_file(trained.state_dict(), path)
    found = with_weights(model(), path)
    for p, q in zip(found.parameters(), trained.parameters(), strict=True):
        assert torch.equal(p, q)


class Trap:
    def __reduce__(self):
        return (Path("ran").write_text, ("code ran",))


def test_bad_weights():
    torch.save(model(), "m.pt")
    assert_refused("E0555", lambda: read_weights(Path("m.pt")), "weights_only=True")
    with open("trap.pt", "wb") as file:
        pickle.dump(Trap(), file)
    assert_refused("E0555", lambda: read_weights(Path("trap.pt")), "weights_only=True")
    assert not Path("ran").exists()
    torch.save([1, 2], "l.pt")
    assert_refused("E0555", lambda: read_weights(Path("l.pt")), "holds a `list`")
    torch.save({"epoch": 3, "model": model().state_dict()}, "e.pt")
    assert_refused("E0555", lambda: read_weights(Path("e.pt")), "`epoch` is a `int`")
    for name in ("no.pt", "x.onnx"):
        assert_refused("E0555", lambda name=name: read_weights(Path(name)), name)
    for name in ("b.pt", "b.safetensors"):
        Path(name).write_bytes(b"\x00rubbish")
        assert_refused("E0555", lambda name=name: read_weights(Path(name)), name)
    state = model().state_dict()
    state["3.weight"] = state.pop("2.weight")
    state["0.weight"] = torch.zeros(4, 3)
    torch.save(state, "d.pt")
    assert_refused(
        "E0556",
        lambda: with_weights(model(), Path("d.pt")),
        "missing: `2.weight`",
        "unexpected: `3.weight`",
        "`0.weight` is [4, 3] in the file and [2, 3] in the model",
    )
    state = model().state_dict()
    state["0.bias"][1] = float("nan")
    torch.save(state, "n.pt")
    assert_refused("E0556", lambda: with_weights(model(), Path("n.pt")), "`0.bias`", "NaN")


MODULE = """
import torch

def make(width=4, outputs=3):
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, outputs))

def data(n=12):
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(n, 3, generator=g), torch.randint(0, 3, (n,), generator=g)
    return {"train": (X, y), "query": (X[:2], y[:2])}

def rows(shift=True):
    ids = torch.arange(24).reshape(6, 4) % 5
    fields = {"ids": ids, "labels": ids}
    options = {"shift_labels": shift} if shift else {}
    return {"train": fields, "query": {k: v[:2] for k, v in fields.items()}, **options}

class Letters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5)

    def forward(self, ids):
        return (self.head(self.table(ids)), None)

def wrong():
    return 3

def odd():
    return {"train": 1, "test": 2}

def fails():
    raise KeyError("no such thing")
"""
SPEC = """
task mine {
  data python("my_part:data", n = 9)
  model python("my_part:make", width = 5)
  loss cross_entropy
  train sgd(epochs = 1)
}
evaluate ggn on mine
"""


@pytest.fixture
def my_part(folder, monkeypatch):
    (folder / "my_part.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "my_part", raising=False)
    yield
    sys.modules.pop("my_part", None)


def test_functions_run_only_where_they_may(my_part):
    spec = loads(SPEC).evaluations[0].task
    with pytest.raises(cv.SpecError) as caught:
        cv.task(spec)
    assert [d.code for d in caught.value.diagnostics] == ["E0550", "E0550"]
    assert "my_part" not in sys.modules
    before = torch.get_rng_state()
    task = cv.task(spec, allow_python=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert (task.N, task.Q, task.P) == (9, 2, 3 * 5 + 5 + 5 * 3 + 3)
    for p, q in zip(task.build(3).parameters(), task.build(3).parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(next(task.build(3).parameters()), next(task.build(4).parameters()))


def test_functions_may_return_dicts_and_say_how_to_read_them(my_part):
    spec = loads(SPEC).evaluations[0].task
    spec = replace(
        spec,
        data=part_text("data", 'python("my_part:rows")', "<data>"),
        model=part_text("model", 'python("my_part:Letters")', "<model>"),
    )
    task = cv.task(spec, allow_python=True)
    assert (task.N, task.Q) == (6, 2)
    assert task.train[1][0].tolist() == [1, 2, 3, -100]
    assert task.build(1)(task.train[0]).shape == (6, 4, 5)
    unsaid = replace(
        spec, data=part_text("data", 'python("my_part:rows", shift = false)', "<data>")
    )
    assert_refused("E0558", lambda: cv.task(unsaid, allow_python=True), "shift_labels=True")
    odd = replace(spec, data=part_text("data", 'python("my_part:odd")', "<data>"))
    assert_refused("E0551", lambda: cv.task(odd, allow_python=True), "a dict of `train`, `test`")
    more = replace(spec, model=part_text("model", 'python("my_part:make", depth = 3)', "<model>"))
    assert_refused("E0551", lambda: cv.task(more, allow_python=True), "called with `depth`")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no_colon", "is not a `package.module:function`"),
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError"),
        ("my_part:other", "`my_part` has no `other`"),
        ("my_part:torch", "is not a function"),
        ("my_part:wrong", "returned a `int`"),
        ("my_part:fails", "raised KeyError"),
    ],
)
@pytest.mark.parametrize("kind", ["data", "model"])
def test_functions_that_fail_are_named(my_part, line, words, kind):
    spec = loads(SPEC).evaluations[0].task
    spec = replace(spec, **{kind: part_text(kind, f'python("{line}")', "<part>")})
    assert_refused("E0551", lambda: cv.task(spec, allow_python=True), words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no_such_module:f", "or install it"),
        ("my_part.inner:f", "or install it"),
        ("broken_part:f", "make `import broken_part` run"),
        ("misspelt_part:f", "make `import misspelt_part` run"),
        ("needy_part:f", "make `import needy_part` run"),
    ],
)
def test_a_module_that_raises_is_not_said_to_be_missing(my_part, line, words):
    Path("broken_part.py").write_text("raise RuntimeError('at import')")
    Path("misspelt_part.py").write_text("def f(:")
    Path("needy_part.py").write_text("import no_such_package")
    spec = loads(SPEC).evaluations[0].task
    spec = replace(spec, data=part_text("data", f'python("{line}")', "<part>"))
    assert_refused("E0551", lambda: cv.task(spec, allow_python=True), words)
