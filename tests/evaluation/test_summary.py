"""What a result calls its model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.evaluation.summary import summary


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(4, 3)), "MLP 4–3"),
        (nn.Sequential(nn.Linear(4, 3, bias=False)), "MLP 4–3, no bias"),
        (nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3)), "MLP 4–2–3 tanh"),
        (nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 3)), "Sequential of 1 Embedding, 1 Linear"),
    ],
)
def test_a_model_is_named_by_its_layers(model, words):
    of_words = isinstance(model[0], nn.Embedding)
    X = torch.tensor([0, 1, 2]) if of_words else torch.randn(3, 4)
    y = torch.tensor([0, 1, 2])
    assert summary(cv.Task(model, "cross_entropy", (X, y), (X, y)), {}).model == words
