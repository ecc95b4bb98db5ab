"""Columns of `datasets` tables give the bits of the same numbers in memory, whatever their format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import curvlang as cv
from curvlang.models.sources.arrow_columns import arrow_values
from curvlang.models.sources.table_columns import PaddedRows, column_rows, table_columns
from curvlang.models.task import Task
from tests.models.language_model import gpt2
from tests.models.sources.support import N, X, Y, assert_same_results, network, nothing_fits

__all__ = ["nothing_fits"]

SPEC = "curvature mine = block_ggn |> kronecker_factor(others = diagonal)"
FORMATS = (None, "torch", "numpy", "arrow", "pandas")


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def tokens(lengths: list[int]) -> dict[str, list[list[int]]]:
    rng = np.random.default_rng(sum(lengths))
    ids = [rng.integers(0, 10, n).tolist() for n in lengths]
    mask = [[1] * len(row) for row in ids]
    return {"input_ids": ids, "attention_mask": mask, "labels": [list(row) for row in ids]}


def padded(source: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {k: [row + [fill[k]] * (6 - len(row)) for row in rows] for k, rows in source.items()}


def language_task(train: Any, query: Any) -> Task:
    return cv.Task(gpt2(0), "cross_entropy", train, query, shift_labels=True)


CASES = {
    "one length": (tokens([5] * 9), tokens([5] * 3)),
    "several lengths": (tokens([3, 6, 2, 5, 4, 6, 3, 2, 3]), tokens([4, 2, 3])),
    "padded": (padded(tokens([3, 6, 2, 5, 4, 6, 3, 2, 3])), padded(tokens([4, 2, 3]))),
    "queries of one length": (tokens([3, 6, 2, 5, 4]), tokens([4, 4])),
    "one example": (tokens([4]), tokens([3, 2])),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stored", [False, True], ids=["read once", "stored"])
def test_a_table_of_tokens_is_its_lists(
    case: str, stored: bool, request: pytest.FixtureRequest
) -> None:
    memory = language_task(*CASES[case])
    scores = cv.influence(cv.fit(cv.loads(SPEC), memory, progress=False), memory, damping=0.1)
    if stored:
        request.getfixturevalue("nothing_fits")
    train, query = (datasets.Dataset.from_dict(x) for x in CASES[case])
    for kind in FORMATS:
        task = language_task(train.with_format(kind), query.with_format(kind))
        assert isinstance(task.train[0], cv.StoredRows) == stored
        assert task.fingerprint() == memory.fingerprint()
    for pair in ((train, CASES[case][1]), (CASES[case][0], query)):
        assert language_task(*pair).fingerprint() == memory.fingerprint()
    op = cv.fit(cv.loads(SPEC), task, progress=False)
    assert torch.equal(cv.influence(op, task, damping=0.1, progress=False), scores)


@pytest.mark.usefixtures("nothing_fits")
def test_chosen_rows_and_tables_on_disk_are_read_in_their_order(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"x": X, "y": Y, "name": ["a"] * N}).save_to_disk(tmp_path / "d")
    whole = datasets.load_from_disk(tmp_path / "d")
    order = [7, 3, 3, 20, 0]
    for table, places in (
        (whole, list(range(N))),
        (whole.select(order), order),
        (whole.select(range(4, 9)), list(range(4, 9))),
        (datasets.concatenate_datasets([whole, whole.select([2])]), [*range(N), 2]),
    ):
        found = table_columns(table, ["x"])
        assert found is not None
        rows = found["x"]
        assert isinstance(rows, cv.StoredRows)
        wanted = torch.from_numpy(X)[places]
        assert torch.equal(rows[:], wanted)
        assert torch.equal(rows[torch.tensor([3, 1, 1])], wanted[[3, 1, 1]])
        assert torch.equal(rows[1:4], wanted[1:4])
        assert rows[4:4].shape == (0, 5)


@pytest.mark.usefixtures("nothing_fits")
def test_columns_are_inputs_and_targets() -> None:
    table = datasets.Dataset.from_dict({"x": X.astype("f8"), "y": Y})
    memory = cv.Task(network(), "cross_entropy", (X, Y), (X, Y))
    for kind in (None, "torch", "numpy"):
        own = table.with_format(kind)
        task = cv.Task(network(), "cross_entropy", (own["x"], own["y"]), (X, Y))
        assert_same_results(memory, task)


def test_images_of_a_fixed_shape_and_classes_with_names() -> None:
    features = datasets.Features(
        {
            "image": datasets.Array3D((2, 3, 4), "uint8"),
            "vector": datasets.List(datasets.Value("float32"), length=3),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "flag": datasets.Value("bool"),
        }
    )
    image = np.arange(72, dtype="u1").reshape(3, 2, 3, 4)
    rows = {"image": image, "vector": X[:3, :3], "label": [1, 0, 1], "flag": [True, False, True]}
    found = table_columns(datasets.Dataset.from_dict(rows, features=features), None)
    assert found is not None
    given = {k: x for k, x in found.items() if isinstance(x, torch.Tensor)}
    assert torch.equal(given["image"], torch.from_numpy(image).to(torch.int64))
    assert torch.equal(given["vector"], torch.from_numpy(X[:3, :3]))
    assert given["label"].tolist() == [1, 0, 1]
    assert given["flag"].dtype == torch.bool


def test_tables_of_other_rows_are_read_row_by_row() -> None:
    table = datasets.Dataset.from_dict({"x": X, "label": Y, "text": ["a"] * N})
    assert table_columns(table, None) is None
    assert table_columns(table.with_transform(lambda x: x), ["x"]) is None
    assert table_columns(table.with_format("torch", dtype=torch.float64), ["x"]) is None
    assert table_columns(table.with_format("torch", columns=["x"], output_all_columns=True), None) is None  # fmt: skip
    assert set(table_columns(table.with_format("torch", columns=["x"]), None) or {}) == {"x"}
    assert column_rows(table["text"]) is None
    with pytest.raises(cv.SpecError, match=r"E0557.*holds texts"):
        cv.Task(network(), "cross_entropy", table, table)


@pytest.mark.parametrize("stored", [False, True], ids=["read once", "stored"])
def test_what_columns_lack_is_refused(stored: bool, request: pytest.FixtureRequest) -> None:
    if stored:
        request.getfixturevalue("nothing_fits")
    missing = datasets.Dataset.from_dict({"x": [[1.0, 2.0], None, [3.0, 4.0]], "y": [0, 1, None]})
    inside = datasets.Dataset.from_dict({"x": [[1.0, None], [3.0, 4.0]], "y": [0, 1]})
    ragged = datasets.Dataset.from_dict({"x": [[1.0], [3.0, 4.0]], "y": [0, 1]})
    deep = datasets.Dataset.from_dict(
        {"x": [[[1.0], [2.0]], [[3.0, 4.0], [1.0, 2.0]]], "y": [0, 1]}
    )
    for table in (missing, inside, ragged, deep):
        with pytest.raises(cv.SpecError, match="E0407"):
            cv.Task(network(), "cross_entropy", (table["x"], table["y"]), (X, Y))
    for table, what in ((missing, "missing values"), (inside, "missing values"), (deep, "shapes")):
        with pytest.raises(cv.SpecError, match=f"E0557.*{what}"):
            cv.Task(network(), "cross_entropy", table, table, labels="y")


def test_rows_are_padded_where_they_are_read() -> None:
    import pyarrow as pa

    lists = pa.chunked_array([pa.array([[[1, 2]], [[3, 4], [5, 6]]]), pa.array([[[7, 8]]])])
    assert arrow_values(lists).padded(3, -1)[:, :, 0].tolist() == [
        [1, -1, -1],
        [3, 5, -1],
        [7, -1, -1],
    ]
    assert arrow_values(lists[1:]).padded(2, 0)[:, :, 1].tolist() == [[4, 6], [8, 0]]


@pytest.mark.usefixtures("nothing_fits")
def test_lengths_are_known_of_padded_rows() -> None:
    table = datasets.Dataset.from_dict({"x": [[1], [2, 3], [4, 5, 6]]})
    found = (table_columns(table, None) or {})["x"]
    assert not isinstance(found, torch.Tensor | cv.StoredRows)
    rows = found.padded(3, 0)
    assert isinstance(rows, PaddedRows)
    assert rows.lengths is not None
    assert rows.lengths.tolist() == [1, 2, 3]
    assert rows[torch.tensor([2, 0])].tolist() == [[4, 5, 6], [1, 0, 0]]
