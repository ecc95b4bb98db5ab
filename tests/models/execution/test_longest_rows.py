"""Rows that are longer than a model runs on are refused by name; what else a model raises stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from tests.models.language_model import TOKENS, gpt2
from tests.models.padding.readers import Reader, made

PLACES = 8


class Places(nn.Module):
    """Tokens and a vector for each of four places, as a table or as a buffer that is cut."""

    def __init__(self, table=True):
        super().__init__()
        self.tokens, self.last = nn.Embedding(9, 4), nn.Linear(4, 9)
        self.places = nn.Embedding(4, 4) if table else None
        self.register_buffer("numbers", torch.randn(1, 4, 4))

    def forward(self, input_ids):
        T = input_ids.shape[1]
        places = self.numbers if self.places is None else self.places(torch.arange(T))[None]
        return self.last(torch.tanh(self.tokens(input_ids) + places[:, :T]))


def lm(rows):
    return {"input_ids": rows, "labels": rows}


SHORT, LONG = [1, 2, 3], [5, 6, 7, 8, 5, 4]


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize(
    ("train", "query", "named"),
    [
        (lm([SHORT, LONG]), lm([SHORT]), "row 1 of `train` has 6"),
        (lm([SHORT, SHORT]), lm([SHORT, SHORT[:2], LONG]), "row 2 of `query` has 6"),
        (lm([LONG, LONG]), lm([LONG]), "rows of `train` have 6"),
    ],
)
def test_the_longest_row_is_named_with_what_the_model_takes(table, train, query, named):
    with pytest.raises(
        cv.SpecError, match=rf"(?s)E0859.*{named} positions.*at most 4.*max_length=4"
    ):
        cv.Task(made(Places, table=table), "cross_entropy", train, query, shift_labels=True)


def test_so_are_rows_of_one_tensor_and_those_of_a_pooled_model():
    rows = torch.tensor([LONG, LONG])
    with pytest.raises(cv.SpecError, match="rows of `train` have 6 positions"):
        cv.Task(made(Places), "cross_entropy", (rows, rows), (rows, rows))
    pooled = {"input_ids": [SHORT, [1] * 11], "labels": [0, 1]}
    with pytest.raises(cv.SpecError, match=r"row 1 of `train` has 11 positions.*at most 9"):
        cv.Task(made(Reader, causal=False, pooled=True), "cross_entropy", pooled, pooled)


def test_a_model_of_transformers_names_its_table():
    pytest.importorskip("transformers")
    long = lm([[1, 2], [1] * (PLACES + 1)])
    with pytest.raises(cv.SpecError, match=r"(?s)E0859.*at most 8.*`transformer.wpe`"):
        cv.Task(gpt2(0), "cross_entropy", long, long, shift_labels=True)


@pytest.mark.parametrize("row", [0, 1])
def test_a_token_that_the_table_lacks_is_not_a_length(row):
    rows = [[1, 2], [1, 2, 3], [1]]
    rows[row] = [1, 99]
    with pytest.raises(cv.SpecError, match=rf"E0422.*example {row} of `train` has the token 99"):
        cv.Task(made(Places), "cross_entropy", lm(rows), lm([SHORT]), shift_labels=True)


def test_neither_is_a_token_that_a_model_makes_itself():
    class Next(Places):
        def forward(self, input_ids):
            return super().forward(input_ids + 1)

    # 8 is in the data's range, 9 is not in the table's.
    rows = torch.tensor([[1, 2, 8], [1, 2, 3]])
    with pytest.raises(cv.SpecError, match=r"(?s)E0408.*`tokens` is asked for row 9.*larger table"):
        cv.Task(made(Next), "cross_entropy", (rows, rows), (rows, rows))


def test_a_model_that_takes_any_length_takes_them():
    class Sums(Places):
        def forward(self, input_ids):
            return self.last(torch.tanh(self.tokens(input_ids).cumsum(1)))

    assert TOKENS > PLACES
    task = cv.Task(
        made(Sums), "cross_entropy", lm([SHORT, LONG * 9]), lm([SHORT]), shift_labels=True
    )
    assert task.train[0].shape == (2, 54)
