"""Rows are cut where nothing but padding is lost, and keep their positions elsewhere, with a reason."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from tests.models.padding.readers import (
    Pooling,
    Reader,
    classes,
    made,
    padded,
    rows,
    task_of,
    with_labels,
)

N = 8


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, {}),
        ({}, {"noise": 3}),
        ({"causal": False}, {}),
        ({"causal": False, "pooled": True}, {"pooled": True}),
        ({"places": ""}, {"left": True}),
        ({}, {"left": True, "places": True}),
    ],
)
@pytest.mark.parametrize("loss", ["cross_entropy", cv.CrossEntropy("sum")])
def test_rows_are_cut(options, how, loss):
    task = task_of(made(**options), loss, rows(N), rows(4, 1), **how)
    for part in ("train", "query"):
        padding = task.padding(part)
        assert padding is not None
        assert padding.kept == ""
    (batch, *_) = map(task.read, task.cuts(lambda share: 2))
    assert batch.X.shape[1] < task.train[0].shape[1]


@pytest.mark.parametrize(
    ("task", "why"),
    [
        # Places are counted from the left, where the padding is.
        (lambda: task_of(made(), "cross_entropy", rows(N), rows(4), left=True), "row 1"),
        # A mean over all places, the padding's among them.
        (lambda: task_of(made(Pooling), "cross_entropy", rows(N), rows(4), pooled=True), "row 1"),
    ],
)
def test_rows_keep_their_padding_where_something_changes(task, why):
    padding = task().padding()
    assert padding is not None
    assert why in padding.kept
    assert "changes" in padding.kept
    assert len(list(task().cuts(lambda share: N))) == 1


def test_positions_with_a_label_are_a_rows_own():
    given = padded(rows(N))
    X, mask = given["input_ids"], given["attention_mask"] == 1
    assert cv.Task(made(), cv.CrossEntropy("sum"), (X, X), (X, X), mask=mask).padding() is None


def test_a_loss_that_reads_padding_keeps_it():
    given = padded(rows(N))
    X, mask = given["input_ids"], given["attention_mask"] == 1
    y = torch.randn(*X.shape, 7).double()
    padding = cv.Task(made(), "mse", (X, y), (X, y), mask=mask).padding()
    assert padding is not None
    assert "the loss of row 1" in padding.kept


def test_a_mask_beside_tensors_is_enough():
    model, given = made(), with_labels(padded(rows(N)))
    X, y = given["input_ids"], given["labels"]
    mask = given["attention_mask"] == 1
    task = cv.Task(
        model, cv.CrossEntropy("sum"), (X, y), (X[:3], y[:3]), mask=mask, query_mask=mask[:3]
    )
    for part in ("train", "query"):
        found = task.padding(part)
        assert found is not None
        assert found.kept == ""
    assert task.queries(slice(1, 3)).query_mask.tolist() == mask[1:3].tolist()
    assert task.replaced(query=(X[:2], y[:2])).query_mask is None


def test_whole_rows_have_nothing_to_cut():
    task = task_of(made(), "cross_entropy", rows(N, low=9), rows(4, low=9))
    assert task.padding() is None


def test_a_query_mask_of_another_shape_is_refused():
    with pytest.raises(cv.SpecError, match=r"E0416.*`query_mask`"):
        cv.Task(
            made(pooled=True, causal=False), "cross_entropy",
            (torch.ones(4, 3, dtype=torch.int64), classes(4)),
            (torch.ones(4, 3, dtype=torch.int64), classes(4)),
            query_mask=torch.ones(3, 3, dtype=torch.bool),
        )  # fmt: skip


def test_padding_before_a_row_predicts_nothing():
    """A row whose padding comes first has the loss that it has alone."""
    given = rows(N)
    left = task_of(made(places=""), cv.CrossEntropy("sum"), given, given, left=True)
    right = task_of(made(places=""), cv.CrossEntropy("sum"), given, given)
    sums = [t.loss.per_example(t.model(t.train[0]), t.train[1]) for t in (left, right)]
    assert torch.allclose(*sums, rtol=1e-12)


def test_reader_reads_no_padding():
    """The models of these tests have outputs that rows have alone."""
    model, (row, *_) = made(Reader), rows(N, seed=2, high=5)
    whole = model(**padded([row]))[0, : len(row)]
    assert torch.allclose(model(row[None])[0], whole, rtol=1e-12)


def test_an_explanation_says_what_becomes_of_padding():
    spec = "curvature m = block_ggn |> kronecker_factor(others = diagonal)"
    cut = task_of(made(), "cross_entropy", rows(N), rows(4, 1))
    kept = task_of(made(), "cross_entropy", rows(N), rows(4, 1), left=True)
    own = cut.mask.sum().item()
    share = round(100 * (1 - own / cut.mask.numel()))
    said = f"rows have 1 to 9 positions of their own, and {share} % of {N} × 9 are padding"
    for task, rest in ((cut, ": batches leave it out"), (kept, ", which is kept: ")):
        text = cv.explain(cv.loads(spec), task).text(code=False)
        assert f"{said}{rest}" in text
    whole = cv.Task(
        made(Pooling), "cross_entropy", *[(x.train[0][:, :9], classes(N)) for x in (cut, cut)]
    )
    assert "padding" not in cv.explain(cv.loads(spec), whole).text(code=False)
