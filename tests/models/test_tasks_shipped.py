"""The tasks that ship beside digits: their data, their models, and that they train and retrain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import curvlang as cv
from curvlang.evaluation.ground_truth import ground_truth
from curvlang.language import task_text
from curvlang.models.architectures.cnn import Convolutions, cnn
from curvlang.models.architectures.decoder import DecoderSizes, decoder
from curvlang.models.builtin import task_from
from curvlang.models.data.characters import ALPHABET, characters, spelt, text
from curvlang.models.data.diabetes import diabetes
from curvlang.storage.cache import Cache
from curvlang.training.baseline import train_baseline
from tests.models.support import assert_refused, data_set, defaults

TASKS = {
    # name: trainable parameters, loss of the queries after the recipe, loss of a constant guess
    "digits_cnn": (1898, 0.2, 2.3),
    "characters": (2052, 18.5, 26.3),
    "diabetes": (193, 0.6, 1.0),
}


def made(text):
    return task_from(task_text(text, "test"))


@pytest.mark.parametrize("name", TASKS)
def test_their_recipes_train(name):
    parameters, reached, constant = TASKS[name]
    task = made(name)
    assert parameters == task.P
    found = train_baseline(task, 0)
    X, y = found.query
    with torch.no_grad():
        loss = float(found.loss.per_example(found.model(X), y).mean())
    assert loss < reached < constant


@pytest.mark.parametrize(
    "text",
    [
        "digits_cnn(channels = [2, 4], groups = 2, norm = group, epochs = 1)",
        "characters(context = 6, width = 4, hidden = 4, layers = 2, epochs = 1)",
        "diabetes(epochs = 1)",
    ],
)
def test_their_models_are_seeded_and_retrain_in_stacks(text, tmp_path):
    before = torch.get_rng_state()
    task = made(text)
    assert torch.equal(torch.get_rng_state(), before)
    for p, q in zip(task.build(3).parameters(), task.build(3).parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.isfinite(p).all()
    truth = ground_truth(task, cv.LDS(subsets=3, retrains=2), 0, cache=Cache(tmp_path))
    assert truth.outcome.shape == (3, 2, task.Q)
    assert truth.trained == 6
    assert float((truth.outcome[0, 0] - truth.outcome[0, 1]).abs().max()) > 0


def test_characters_are_the_text_and_what_follows():
    whole = text()
    assert set(whole) == set(ALPHABET)
    data = characters(context=8, test=0.2, seed=1)
    rows = torch.cat([data.train[0], data.query[0]])
    assert sorted(map(spelt, rows)) == sorted(whole[k : k + 8] for k in range(0, len(rows) * 8, 8))
    assert torch.equal(data.train[0][:, 1:], data.train[1][:, :-1])
    assert whole.startswith("shall i compare thee to a summers day thou art more lovely")
    for x, y in zip(*data.query, strict=True):
        assert spelt(x) + spelt(y)[-1] in whole + " "


def test_the_decoder_looks_back_only():
    model = decoder(
        27,
        8,
        DecoderSizes(**defaults("decoder", width=4, layers=2)),
        torch.Generator().manual_seed(1),
    ).double()
    X = torch.randint(0, 27, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = X.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 27
    with torch.no_grad():
        before, after = model(X), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert float((before[:, 5:] - after[:, 5:]).abs().min(0).values.max()) > 1e-4


def test_images_are_the_flat_digits():
    flat, image = data_set("digits", scale="unit"), data_set("digits", scale="unit", layout="image")
    assert image.shape == (1, 8, 8)
    assert torch.equal(flat.train[0], image.train[0].reshape(-1, 64))


def test_groups_and_norms_are_in_the_model():
    model = cnn(
        (1, 8, 8), 10, Convolutions(**defaults("cnn", channels=(4, 8), groups=2, norm="group"))
    )
    kinds = [m for m in model if isinstance(m, nn.Conv2d | nn.GroupNorm)]
    assert [type(m).__name__ for m in kinds] == ["Conv2d", "GroupNorm"] * 2
    assert [m.groups for m in kinds if isinstance(m, nn.Conv2d)] == [1, 2]
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_diabetes_is_standardised_by_its_training_part():
    data = diabetes(test=0.1, seed=2)
    assert data.train[0].shape == (397, 10)
    assert data.query[1].shape == (45, 1)
    for x in data.train:
        assert float(x.mean(0).abs().max()) < 1e-5
        assert torch.allclose(x.std(0, unbiased=False), torch.ones(x.shape[1]), atol=1e-4)


def test_what_does_not_fit_is_refused():
    assert_refused(
        "E0412", lambda: cnn((64,), 10, Convolutions(**defaults("cnn"))), "layout = image"
    )
    assert_refused(
        "E0412",
        lambda: cnn((1, 8, 8), 10, Convolutions(**defaults("cnn", channels=(4, 4, 4, 4)))),
        "halves",
    )
    assert_refused(
        "E0412",
        lambda: cnn((1, 8, 8), 10, Convolutions(**defaults("cnn", channels=(3, 4), groups=2))),
        "divides",
    )
    assert_refused(
        "E0412",
        lambda: decoder(5, 4, DecoderSizes(**defaults("decoder", width=5))),
        "divides the width",
    )
    assert_refused("E0412", lambda: data_set("characters", context=4000), "context such as 8")
    assert_refused("E0412", lambda: data_set("characters", test=1e-5), "such as 0.1")
    assert_refused("E0412", lambda: data_set("diabetes", test=0.9999), "such as 0.1")
