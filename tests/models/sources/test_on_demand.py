"""Large data sets and loaders make their items when they are asked for, with the bits of tensors in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import curvlang as cv
from curvlang.models.sources.gathering import Reading
from curvlang.models.sources.item_readers import WorkerReader
from curvlang.models.sources.on_demand import on_demand
from tests.models.language_model import gpt2
from tests.models.sources.support import N, X, Y, assert_same_results, network, nothing_fits
from tests.models.sources.test_table_columns import CASES, SPEC

__all__ = ["nothing_fits"]

pytestmark = pytest.mark.usefixtures("nothing_fits")


class Pairs(Dataset[Any]):
    """Numpy rows and their classes, and which of them were made."""

    def __init__(self, X: Any = X, Y: Any = Y) -> None:
        self.X, self.Y = X, Y
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, k: int) -> Any:
        if not 0 <= k < len(self):
            raise IndexError(k)
        self.read.append(k)
        return self.X[k], int(self.Y[k])


class Dicts(Pairs):
    """The same as dicts of fields."""

    def __getitem__(self, k: int) -> Any:
        x, y = super().__getitem__(k)
        return {"input": x, "name": f"example {k}", "label": y}


class Records:
    """Rows of fields by number, of a class that torch does not know."""

    def __init__(self, columns: dict[str, list[list[int]]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, k: int) -> dict[str, list[int]]:
        return {name: rows[k] for name, rows in self.columns.items()}


TENSORS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
SOURCES: dict[str, Any] = {
    "data set": lambda: Pairs(),
    "tensors": lambda: TENSORS,
    "subset": lambda: Subset(
        Pairs(np.concatenate([X, X]), np.concatenate([Y, Y])), range(N, 2 * N)
    ),
    "loader": lambda: DataLoader(Pairs(), batch_size=7),
    "loader of dicts": lambda: DataLoader(Dicts(), batch_size=7),
    "dicts": lambda: Dicts(),
}


@pytest.mark.parametrize("source", SOURCES)
def test_items_on_demand_give_the_same_bits(source: str) -> None:
    given = SOURCES[source]()
    named: dict[str, Any] = {"inputs": ["input"]} if "dicts" in source else {}
    memory = ({"input": X, "label": Y},) * 2 if named else ((X, Y),) * 2
    tasks = [
        cv.Task(network(), "cross_entropy", *pair, **named)
        for pair in (memory, (given, given), (given, memory[1]))
    ]
    assert isinstance(tasks[1].train[0], cv.StoredRows)
    for task in tasks[1:]:
        assert_same_results(tasks[0], task)


@pytest.mark.parametrize("case", CASES)
def test_items_of_tokens_are_their_lists(case: str) -> None:
    memory = cv.Task(gpt2(0), "cross_entropy", *CASES[case], shift_labels=True)
    train, query = map(Records, CASES[case])
    task = cv.Task(gpt2(0), "cross_entropy", train, query, shift_labels=True)
    assert isinstance(task.train[0], cv.StoredRows)
    assert task.fingerprint() == memory.fingerprint()
    scores = [
        cv.influence(cv.fit(cv.loads(SPEC), x, progress=False), x, damping=0.1, progress=False)
        for x in (memory, task)
    ]
    assert torch.equal(*scores)


def test_small_targets_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curvlang.models.data.derived_rows.HELD", 8 * N)
    given = Pairs()
    found = on_demand(given, Reading("train", torch.float32, None))
    assert isinstance(found, tuple)
    assert isinstance(found[0], cv.StoredRows)
    assert torch.equal(found[1][:], torch.from_numpy(Y))
    given.read.clear()
    assert torch.equal(found[0][torch.tensor([5, 2])], torch.from_numpy(X[[5, 2]]))
    assert given.read == [5, 2]
    assert found[0][3:3].shape == (0, 5)


def test_inputs_and_targets_of_a_batch_are_made_once() -> None:
    given = Pairs()
    found = on_demand(given, Reading("train", torch.float32, None))
    assert isinstance(found, tuple)
    given.read.clear()
    for rows in (slice(0, 4), slice(4, 8)):
        assert torch.equal(found[0][rows], torch.from_numpy(X[rows]))
        assert torch.equal(found[1][rows], torch.from_numpy(Y[rows]))
    assert given.read == list(range(8))


def test_workers_have_the_next_batch_ready() -> None:
    reader = WorkerReader(DataLoader(Pairs(), batch_size=7, num_workers=2), "train")
    for numbers in (range(8), range(8, 16), range(16, 24), [1, 9, 3, 2], range(5, 9), range(9, 11)):
        found = reader(list(numbers))
        assert [y for _, y in found] == [int(Y[k]) for k in numbers]


def test_a_task_whose_items_workers_make() -> None:
    memory = cv.Task(network(), "cross_entropy", (X, Y), (X, Y))
    loader = DataLoader(Pairs(), batch_size=7, num_workers=1)
    assert_same_results(memory, cv.Task(network(), "cross_entropy", loader, (X, Y)))


class Changing(Pairs):
    def __getitem__(self, k: int) -> Any:
        return X[k] + len(self.read), super().__getitem__(k)[1]


class Growing(Pairs):
    """Later readings give longer rows."""

    def __getitem__(self, k: int) -> Any:
        x, y = super().__getitem__(k)
        return (x if len(self.read) < 3 * N else x[:3]), y


class Failing(Pairs):
    def __getitem__(self, k: int) -> Any:
        if k == 17:
            raise ValueError("no such file")
        return super().__getitem__(k)


class Uneven(Pairs):
    def __getitem__(self, k: int) -> Any:
        return X[k][: 5 - (k == 20)], int(Y[k])


class Fewer(Dicts):
    def __getitem__(self, k: int) -> Any:
        item = super().__getitem__(k)
        return {x: item[x] for x in (("input", "label") if k < 20 else ("input",))}


REFUSED = {
    "changing": (Changing, "E0409.*differs when it is read again"),
    "other later": (Growing, "E0409.*differs when it is read again"),
    "failing": (Failing, "E0407.*raises `ValueError` where item 17 is read"),
    "uneven": (Uneven, "E0407.*different shapes"),
    "fewer fields": (Fewer, "E0557.*differ in the field"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("together", [1, 1024])
def test_what_a_data_set_cannot_do_is_refused(
    case: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curvlang.models.sources.item_parts.MOST", together)
    source, message = REFUSED[case]
    with pytest.raises(cv.SpecError, match=message):
        cv.Task(network(), "cross_entropy", source(), (X, Y))


def test_a_worker_that_fails_says_on_which_item() -> None:
    loader = DataLoader(Failing(), batch_size=7, num_workers=1)
    with pytest.raises(cv.SpecError, match=r"E0407.*where item 17 is read"):
        cv.Task(network(), "cross_entropy", loader, (X, Y))


def test_loaders_that_shuffle_stay_refused() -> None:
    with pytest.raises(cv.SpecError, match="E0409"):
        cv.Task(network(), "cross_entropy", DataLoader(Pairs(), shuffle=True), (X, Y))


def test_a_loader_with_a_function_of_its_own_is_read_once() -> None:
    def collate(items: list[Any]) -> Any:
        return torch.stack([torch.from_numpy(x) for x, _ in items]), torch.tensor(
            [y for _, y in items]
        )

    loader = DataLoader(Pairs(), batch_size=7, collate_fn=collate)
    task = cv.Task(network(), "cross_entropy", loader, (X, Y))
    assert isinstance(task.train[0], torch.Tensor)
