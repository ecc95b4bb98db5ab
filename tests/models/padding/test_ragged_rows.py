"""Rows of different lengths, as a tokenizer gives them, are the rows alone; what cannot be padded is refused."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.models.padding import spans
from tests.models.padding.readers import (
    Pooling,
    classes,
    gradients,
    made,
    next_tokens,
    rows,
    task_of,
)
from tests.runtime.test_layers import assert_close

N, Q = 9, 4


def fields(given, pooled=False, mask=False, part=0):
    """Lists of lists, as a tokenizer gives them without padding."""
    found = {"input_ids": [row.tolist() for row in given]}
    found["labels"] = classes(len(given), part).tolist() if pooled else found["input_ids"]
    if mask:
        found["attention_mask"] = [[1] * len(row) for row in given]
    return found


def items(given, **how):
    """A list of dicts."""
    whole = fields(given, **how)
    return [dict(zip(whole, row, strict=True)) for row in zip(*whole.values(), strict=True)]


def tensors(given, **how):
    """A dict of lists of tensors."""
    return {
        name: [torch.tensor(x) for x in column] if isinstance(column[0], list) else column
        for name, column in fields(given, **how).items()
    }


def table(given, **how):
    """A table of `datasets`, with columns of lists."""
    return pytest.importorskip("datasets").Dataset.from_dict(fields(given, **how))


@pytest.mark.parametrize("form", [fields, items, tensors, table])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_curvature_and_scores_are_those_of_rows_alone(form, mask, pooled, monkeypatch):
    monkeypatch.setattr(spans, "ENOUGH", 4)
    model = made(causal=not pooled, pooled=pooled)
    given, asked = rows(N), rows(Q, 1, high=6)
    loss = cv.CrossEntropy("sum")
    shift = {} if pooled else {"shift_labels": True}
    sides = (form(given, pooled=pooled, mask=mask), form(asked, pooled=pooled, mask=mask, part=1))
    task = cv.Task(model, loss, *sides, **shift)
    targets = classes if pooled else lambda n, part: [*map(next_tokens, (given, asked)[part])]
    train, ggn = gradients(model, loss, given, targets(N, 0))
    query, _ = gradients(model, loss, asked, targets(Q, 1))
    op = cv.fit("ggn", task)
    assert_close(op.dense(), ggn)
    inverse = torch.linalg.inv(ggn + 0.1 * torch.eye(len(ggn), dtype=ggn.dtype))
    assert_close(cv.influence(op, task, damping=0.1), query @ inverse @ train.T)


def test_they_are_the_task_of_padded_rows():
    model, given, asked = made(), rows(N), rows(Q, 1)
    mine = cv.Task(model, cv.CrossEntropy("sum"), fields(given), fields(asked), shift_labels=True)
    padded = task_of(model, cv.CrossEntropy("sum"), given, asked)
    assert torch.equal(mine.train[1], padded.train[1])
    assert mine.mask is not None
    assert torch.equal(mine.mask, padded.mask)
    spec = cv.loads("curvature m = block_ggn |> kronecker_factor(others = diagonal)")
    assert_close(*(cv.fit(spec, t).dense() for t in (mine, padded)))


def test_padding_has_the_models_own_token():
    class Config:
        pad_token_id = 5

    model = made()
    model.config = Config()
    task = cv.Task(
        model, cv.CrossEntropy("sum"), fields(rows(N)), fields(rows(Q)), shift_labels=True
    )
    assert task.train[0][1, 1:9].tolist() == [5] * 8


def test_rows_of_one_length_have_no_padding():
    own = fields(rows(N, low=9))
    task = cv.Task(made(), cv.CrossEntropy("sum"), own, fields(rows(Q)), shift_labels=True)
    assert task.padding() is None
    assert task.padding("query") is not None


@pytest.mark.parametrize(
    ("change", "code", "what"),
    [
        ({"input_ids": [[1, 2], [3, 4, 5], []], "labels": [[1, 2], [3, 4, 5], []]}, "E0857", "row 2 of `train`"),
        ({"input_ids": [[1, 2], [3, 4, 5]], "labels": [[1, 2], [3, 4]]}, "E0857", "row 1 of `train` has 3"),
        (
            {"input_ids": [[1, 2], [3, 4, 5]], "labels": [[1, 2], [3, 4, 5]], "attention_mask": [[1, 1], [1]]},
            "E0857", "`attention_mask`",
        ),
        ({"input_ids": [[1, 2], [3, "x", 5]], "labels": [[1, 2], [3, 4, 5]]}, "E0557", "row 1 of the field `input_ids`"),
        ({"input_ids": [[1, 2], [3, 4, 5], None], "labels": [0, 1, 2]}, "E0557", "row 2 of the field `input_ids`"),
        ({"input_ids": [[1], [2]], "labels": [[1], [2]]}, "E0558", "no position of `train` has a label"),
        ({"input_ids": [], "labels": []}, "E0407", "`train` is empty"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(change, code, what):
    good = fields(rows(Q))
    with pytest.raises(cv.SpecError, match=rf"(?s){code}.*{what}"):
        cv.Task(made(), cv.CrossEntropy("sum"), change, good, shift_labels=True)


@pytest.mark.parametrize(
    "asked", [{"labels": [[1, 2], [3, 4]]}, {"input_ids": [1, 2], "labels": [1, 2]}]
)
def test_queries_of_another_form_are_refused(asked):
    with pytest.raises(
        cv.SpecError, match=r"(?s)E0557.*`input_ids`|E0557.*no field but the labels"
    ):
        cv.Task(made(), cv.CrossEntropy("sum"), fields(rows(N)), asked, shift_labels=True)


def test_a_model_that_reads_the_padding_is_refused():
    own = [fields(rows(n, part), pooled=True, part=part) for part, n in enumerate((N, Q))]
    with pytest.raises(cv.SpecError, match=r"(?s)E0858.*`train`.*depends on the padding"):
        cv.Task(made(Pooling), "cross_entropy", *own)


@pytest.mark.parametrize("mask", [False, True])
def test_queries_may_have_another_length_than_all_training_examples(mask):
    model, given, asked = made(), rows(N, low=4, high=4), rows(Q, 1, low=7, high=7)
    loss = cv.CrossEntropy("sum")
    task = cv.Task(
        model, loss, fields(given, mask=mask), fields(asked, mask=mask), shift_labels=True
    )
    train, ggn = gradients(model, loss, given, [*map(next_tokens, given)])
    query, _ = gradients(model, loss, asked, [*map(next_tokens, asked)])
    assert_close(cv.fit("ggn", task).dense(), ggn)
    assert_close(1.1 * cv.influence(cv.fit("identity", task), task, damping=0.1), query @ train.T)


@pytest.mark.parametrize("order", [1, -1])
def test_integers_in_some_rows_are_the_numbers_of_the_others(order):
    given = [[1, 2], [0.5, 1.5, 2.5]][::order]

    class Single(torch.nn.Linear):
        def forward(self, values):
            return super().forward(values[..., None])

    own = {"values": given, "labels": [[0] * len(row) for row in given]}
    task = cv.Task(Single(1, 2).double(), "cross_entropy", own, own, shift_labels=False)
    assert sorted(task.train[0].tolist()) == [[0.5, 1.5, 2.5], [1, 2, 0]]


def test_a_loss_that_reads_the_padding_is_told_from_the_model():
    class Outputs(torch.nn.Linear):
        def forward(self, features):
            return super().forward(features)

    g = torch.Generator().manual_seed(0)
    rows_of = [torch.randn(k, 3, generator=g, dtype=torch.float64) for k in (3, 5, 2)]
    own = {"features": rows_of, "labels": [row[:, :2] for row in rows_of]}
    with pytest.raises(
        cv.SpecError, match=r"(?s)E0858.*the loss depends on the padding.*-100 take no part"
    ):
        cv.Task(Outputs(3, 2).double(), "mse", own, own)


def test_a_mask_beside_rows_of_different_lengths_is_refused():
    whole = torch.ones(N, 9, dtype=torch.bool)
    with pytest.raises(cv.SpecError, match=r"E0416.*a mask is given beside them"):
        cv.Task(
            made(), "cross_entropy", fields(rows(N)), fields(rows(Q)), shift_labels=True, mask=whole
        )


@pytest.mark.parametrize("name", ["train", "query"])
def test_new_dicts_need_a_new_task(name):
    own = fields(rows(N)), fields(rows(Q))
    task = cv.Task(made(), cv.CrossEntropy("sum"), *own, shift_labels=True)
    with pytest.raises(cv.SpecError, match=r"(?s)E0557.*make a new task of your own model"):
        task.replaced(**{name: fields(rows(5))})


def test_a_loader_may_give_lists_of_dicts_whose_rows_are_as_many_as_their_tokens():
    own = items([torch.tensor(x) for x in ([1, 2], [3, 4], [5, 6], [1, 2, 3])])
    loader = torch.utils.data.DataLoader(own, batch_size=3, collate_fn=list)
    task = cv.Task(made(), cv.CrossEntropy("sum"), loader, loader, shift_labels=True)
    assert task.mask.sum(1).tolist() == [2, 2, 2, 3]


def test_a_causal_model_without_a_mask_takes_them():
    class Plain(torch.nn.Module):
        """Running sums of tokens: no position reads a later one."""

        def __init__(self):
            super().__init__()
            self.tokens, self.last = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7)

        def forward(self, input_ids):
            return self.last(torch.tanh(self.tokens(input_ids).cumsum(1)))

    model, given = made(Plain), rows(N)
    task = cv.Task(
        model, cv.CrossEntropy("sum"), fields(given), fields(given[:3]), shift_labels=True
    )
    _, ggn = gradients(model, cv.CrossEntropy("sum"), given, [*map(next_tokens, given)])
    assert_close(cv.fit("ggn", task).dense(), ggn)
