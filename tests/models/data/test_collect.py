"""Data in every form that people bring: the same task, or a refusal with the true reason."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import curvlang as cv
from tests.models.support import assert_refused

N = 12
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 2, generator=GENERATOR)
Y = torch.randint(0, 3, (N,), generator=GENERATOR)
A, B = X.numpy(), Y.numpy()
DATA = TensorDataset(X, Y)
Pair = namedtuple("Pair", "x y")
Row = namedtuple("Row", "label x")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(x)


@dataclass
class Example:
    x: object
    label: object


class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return N

    def __getitem__(self, k):
        return self.item(k)


class Stream(IterableDataset):
    def __init__(self, order=lambda: range(N)):
        self.order = order

    def __iter__(self):
        return iter([(X[k], Y[k]) for k in self.order()])


class Once(IterableDataset):
    """Can be read once, as a generator or a socket."""

    def __init__(self):
        self.left = iter([(X[k], Y[k]) for k in range(N)])

    def __iter__(self):
        return self.left


class Bag:
    """A data set of no known class."""

    def __len__(self):
        return N

    def __getitem__(self, k):
        if not 0 <= k < N:
            raise IndexError(k)
        return X[k], Y[k]


class Series:
    """A column as pandas has it: an index of its own, an array on request."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, k):
        raise KeyError(k)


class Table:
    """Columns by name, as pandas and polars have them."""

    def __init__(self, **columns):
        self.held = {name: Series(v) for name, v in columns.items()}
        self.columns = list(columns)

    def __getitem__(self, name):
        return self.held[name]

    def to_numpy(self):
        raise AssertionError("columns of several kinds become objects")


class Batches:
    """A batch sampler of one's own."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches() if callable(self.batches) else self.batches)

    def __len__(self):
        return 2


def made(source, **options):
    """A task of the source; queries in the form that goes with it."""
    query = {"x": X, "label": Y} if options.pop("named", False) else (X, Y)
    return cv.Task(Net(), "cross_entropy", train=source, query=query, **options)


def random_batches():
    order = torch.randperm(N).tolist()
    return [order[:6], order[6:]]


PAIRS = {
    "arrays": lambda: (A, B),
    "float64 arrays": lambda: (A.astype(float), B),
    "lists": lambda: (A.astype(float).tolist(), B.tolist()),
    "a list of two tensors": lambda: [X, Y],
    "targets in a list": lambda: (X, B.tolist()),
    "lists of tensors": lambda: (list(X), list(Y)),
    "series": lambda: (Series(A), Series(B)),
    "a table and a series": lambda: (Table(a=A[:, 0], b=A[:, 1]), Series(B)),
    "objects": lambda: (A.astype(object), B.astype(object)),
    "big endian": lambda: (A.astype(">f4"), B.astype(">i8")),
    "reversed twice": lambda: (A[::-1][::-1], B[::-1][::-1]),
    "long double": lambda: (A.astype(np.longdouble), B.astype(np.uint8)),
    "a generator": lambda: zip(X, Y, strict=True),
    "a tuple of examples": lambda: tuple(zip(X, Y, strict=True)),
    "a bag": Bag,
    "items of numbers": lambda: Items(lambda k: (A[k].tolist(), int(B[k]))),
    "named pairs": lambda: [Pair(X[k], Y[k]) for k in range(N)],
    "with a gradient": lambda: (X.clone().requires_grad_(), Y),
    "a subset": lambda: Subset(DATA, range(N)),
    "joined": lambda: ConcatDataset([Subset(DATA, range(6)), Subset(DATA, range(6, N))]),
    "read once": Once,
    "batches by hand": lambda: DataLoader(
        DATA, batch_sampler=Batches([list(range(5)), list(range(5, N))])
    ),
    "batches in the sampler": lambda: DataLoader(
        DATA, batch_size=None, sampler=BatchSampler(SequentialSampler(DATA), 5, False)
    ),
    "one process of one": lambda: DataLoader(
        DATA, sampler=DistributedSampler(DATA, 1, 0, shuffle=False)
    ),
    "a stream read once": lambda: DataLoader(Once(), batch_size=5),
    "a list of examples": lambda: DataLoader(DATA, batch_size=2, collate_fn=list),
    "columns of examples": lambda: DataLoader(
        DATA, batch_size=5, collate_fn=lambda rows: tuple(zip(*rows, strict=True))
    ),
    "batches of arrays": lambda: DataLoader(
        DATA, batch_size=5, collate_fn=lambda rows: [np.stack(c) for c in zip(*rows, strict=True)]
    ),
}
NAMED = {
    "a table": lambda: Table(x=list(A), label=B),
    "a dict and targets": lambda: ({"x": X}, Y),
    "dataclasses": lambda: [Example(X[k], int(Y[k])) for k in range(N)],
    "named rows": lambda: Items(lambda k: Row(Y[k], X[k])),
    "dicts and targets": lambda: Items(lambda k: ({"x": X[k]}, Y[k])),
    "a loader of named rows": lambda: DataLoader(Items(lambda k: Row(Y[k], X[k])), batch_size=5),
    "a loader of lists of dicts": lambda: DataLoader(
        Items(lambda k: {"x": X[k], "label": Y[k]}), batch_size=5, collate_fn=list
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [*PAIRS, *NAMED])
def test_every_form_gives_the_same_examples(form):
    source = (PAIRS | NAMED)[form]()
    task = made(source, named=form in NAMED)
    assert torch.equal(task.train[0], X)
    assert torch.equal(task.train[1], Y)


TEXT = {"x": X, "label": Y, "text": np.array(["a"] * N), "ragged": [[1] * k for k in range(N)]}
TEXTS = {
    "a dict": lambda: TEXT,
    "a table": lambda: Table(x=list(A), label=B, text=["a"] * N),
    "rows": lambda: [{name: value[k] for name, value in TEXT.items()} for k in range(N)],
    "a loader": lambda: DataLoader(
        Items(lambda k: {"x": X[k], "label": Y[k], "text": "a"}), batch_size=5
    ),
}


@pytest.mark.parametrize("form", TEXTS)
def test_columns_that_are_not_read_may_hold_anything(form):
    task = made(TEXTS[form](), named=True, inputs=["x"])
    assert torch.equal(task.train[0], X)
    assert_refused("E0557", lambda: made(TEXTS[form](), named=True, inputs=["y"]), "`text`")
    with_text = lambda: made(TEXTS[form](), named=True, inputs=["x", "text"])  # noqa: E731
    assert_refused("E0557", with_text, "holds texts")


LOADERS = {
    "batches at random": (lambda: DataLoader(DATA, batch_sampler=Batches(random_batches)), "every time"),
    "batches that leave out": (
        lambda: DataLoader(DATA, batch_sampler=Batches([[0, 1], [2, 3]])), "leaves out 8 of 12"
    ),
    "batches in another order": (
        lambda: DataLoader(DATA, batch_sampler=Batches([range(6, N), range(6)])), "order 6, 7, 8, 9"
    ),
    "batches that repeat": (
        lambda: DataLoader(DATA, batch_sampler=Batches([range(N), [0]])), "more than once"
    ),
    "backwards": (lambda: DataLoader(DATA, sampler=range(N - 1, -1, -1)), "order 11, 10"),
    "a part": (lambda: DataLoader(DATA, sampler=SubsetRandomSampler(range(N))), "SubsetRandom"),
    "by weight": (lambda: DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * N, N)), "Weighted"),
    "a share": (
        lambda: DataLoader(DATA, sampler=DistributedSampler(DATA, 2, 0, shuffle=False)), "6 of 12"
    ),
    "a stream that drops": (lambda: DataLoader(Stream(), batch_size=5, drop_last=True), "drops"),
    "a stream of workers": (lambda: DataLoader(Stream(), batch_size=5, num_workers=2), "2 workers"),
    "a stream that shuffles": (
        lambda: DataLoader(Stream(lambda: torch.randperm(N)), batch_size=5), "read again"
    ),
    "a stream without a loader": (lambda: Stream(lambda: torch.randperm(N)), "read again"),
    "augmentation": (lambda: Items(lambda k: (X[k] + torch.randn(2), Y[k])), "item 0"),
    "augmentation in a loader": (
        lambda: DataLoader(Items(lambda k: (X[k] + torch.randn(2), Y[k])), batch_size=5), "item 0"
    ),
    "no batch size": (lambda: DataLoader(DATA, batch_size=None), "`batch_size=None`"),
}  # fmt: skip


def collated(change):
    """A loader whose function changes each list of examples before torch's own collates it."""
    return lambda: DataLoader(DATA, batch_size=5, collate_fn=lambda b: default_collate(change(b)))


def mixed(batch):
    x, y = default_collate(batch)
    return 0.7 * x + 0.3 * x.flip(0), y


def by_length(batch):
    """Padded to the longest, the longest first: as packed sequences are prepared."""
    batch = sorted(batch, key=lambda pair: -len(pair[0]))
    return pad_sequence([x for x, _ in batch], batch_first=True), torch.stack([y for _, y in batch])


def padded(batch):
    return pad_sequence([x for x, _ in batch], batch_first=True), torch.stack([y for _, y in batch])


class Backwards(DataLoader):
    def __iter__(self):
        return ((x.flip(0), y.flip(0)) for x, y in super().__iter__())


class Short(DataLoader):
    def __iter__(self):
        return islice(super().__iter__(), 2)


GROWING = Items(lambda k: (X[k][: 1 + k % 2], Y[k]))
ROWS = {
    "sorted": (collated(lambda b: sorted(b, key=lambda p: float(p[0][0]))), "a row that is not"),
    "filtered": (collated(lambda b: b[1:]), "9 rows for the 12 examples"),
    "repeated": (collated(lambda b: b + b), "24 rows for the 12 examples"),
    "mixed": (lambda: DataLoader(DATA, batch_size=5, collate_fn=mixed), "a row that is not"),
    "by length": (lambda: DataLoader(GROWING, batch_size=4, collate_fn=by_length), "`by_length`"),
    "backwards": (lambda: Backwards(DATA, batch_size=5), "pass the loader's `.dataset`"),
    "short": (lambda: Short(DATA, batch_size=5), "10 rows for the 12 examples"),
    "changed later": (
        lambda: DataLoader(
            Items(lambda k: (X[k] + (torch.randn(2) if k > 8 else 0), Y[k])), batch_size=2
        ),
        "read again",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_not_the_examples_of_the_data_set_are_refused(name):
    loader, words = ROWS[name]
    assert_refused("E0409", lambda: made(loader()), words)


def test_rows_that_are_padded_or_scaled_one_by_one_are_taken():
    task = made(DataLoader(GROWING, batch_size=4, collate_fn=padded))
    expected = torch.where((torch.arange(N) % 2 == 0)[:, None] & (torch.arange(2) == 1), 0, X)
    assert torch.equal(task.train[0], expected)
    task = made(collated(lambda b: [(2 * x, y) for x, y in b])())
    assert torch.equal(task.train[0], 2 * X)


@pytest.mark.parametrize("workers", [None, 0, 1])
def test_what_a_data_set_raises_is_told(workers):
    def item(k):
        return X[k], Y[k] + {7: "corrupt"}.get(k, 0)

    source = Items(item)
    if workers is not None:
        source = DataLoader(source, batch_size=4, num_workers=workers)
    assert_refused("E0407", lambda: made(source), "item 7", "`TypeError`", "unsupported operand")


@pytest.mark.parametrize("name", LOADERS)
def test_data_that_is_not_fixed_and_whole_is_refused(name):
    loader, words = LOADERS[name]
    assert_refused("E0409", lambda: made(loader()), words)


REFUSED = {
    "texts": ("E0407", lambda: (["a"] * N, B), "hold texts"),
    "a column of texts": ("E0407", lambda: (Table(a=A[:, 0], b=["x"] * N), B), "`b`", "texts"),
    "missing": ("E0407", lambda: ([[None, 1.0]] * N, B), "missing values"),
    "masked": ("E0407", lambda: (np.ma.MaskedArray(A, mask=A > 1), B), "masked"),
    "records": ("E0407", lambda: (np.zeros(N, dtype=[("a", "f4")]), B), "not numbers"),
    "complex": ("E0407", lambda: (A.astype(complex), B), "complex128"),
    "beyond int64": ("E0407", lambda: (np.full((N, 2), 2**63, np.uint64), B), "beyond int64"),
    "sparse": ("E0407", lambda: (X.to_sparse(), Y), "`.to_dense()`"),
    "sparse rows": ("E0407", lambda: (X.to_sparse_csr(), Y), "`.to_dense()`"),
    "sparse items": ("E0407", lambda: Items(lambda k: (X[k].to_sparse(), Y[k])), "`.to_dense()`"),
    "nested": ("E0407", lambda: (torch.nested.nested_tensor(list(X)), Y), "to_padded_tensor"),
    "without data": ("E0407", lambda: (X.to("meta"), Y), "`meta`"),
    "ragged": ("E0407", lambda: ([[1.0], [1.0, 2.0]] * 6, B), "[1] and [2]"),
    "ragged tensors": ("E0407", lambda: ([X[0], X[1][:1]] * 6, B), "[1] and [2]"),
    "three parts": ("E0407", lambda: Items(lambda k: (X[k], Y[k], k)), "3 parts"),
    "nothing": ("E0407", lambda: Items(lambda k: None), "`NoneType`"),
    "empty": ("E0407", list, "is empty"),
    "empty arrays": ("E0407", lambda: (A[:0], B[:0]), "is empty"),
    "one tensor": ("E0407", lambda: X, "`Tensor`"),
    "one array": ("E0407", lambda: A, "`ndarray`"),
    "a path": ("E0407", lambda: "data.csv", "`str`"),
    "a set": ("E0407", lambda: {1, 2}, "`set`"),
    "splits": ("E0407", lambda: {"train": DATA, "test": DATA}, "data['train']"),
    "other lengths": ("E0407", lambda: (A, B[:5]), "one target"),
    "labels twice": ("E0558", lambda: ({"x": X, "label": Y}, Y), "once"),
    "another form later": ("E0557", lambda: [{"x": X[0], "label": 0}, (X[1], 0)], "item 1"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_numbers_for_every_example_is_refused(name):
    code, source, *words = REFUSED[name]
    assert_refused(code, lambda: made(source()), *words)


def test_sparse_matrices_of_scipy_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    assert_refused("E0407", lambda: made((sparse.csr_matrix(A), B)), "`.toarray()`")


def test_tables_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"a": A[:, 0], "b": A[:, 1] > 0, "text": ["x"] * N}, index=range(5, 5 + N)
    )
    task = made((frame[["a", "b"]], pandas.Series(B, index=frame.index)))
    assert torch.equal(task.train[0], torch.stack([X[:, 0], (X[:, 1] > 0).float()], 1))
    assert_refused("E0407", lambda: made((frame, B)), "`text`", "texts")


def test_a_dict_without_a_field():
    assert_refused("E0558", lambda: made({}, named=True), "no field")


def test_arrays_take_the_models_precision_and_tensors_keep_theirs():
    assert made((A.astype(float), B)).train[0].dtype == torch.float32
    assert_refused("E0407", lambda: made((X.double(), Y)), "float64")
