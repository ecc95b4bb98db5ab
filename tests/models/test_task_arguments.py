"""Arguments of another type, outputs in any container: a diagnostic or the right numbers."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import curvlang as cv
from tests.models.support import assert_equal, assert_refused

X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3


def made(model=None, **options):
    model = nn.Linear(2, 3) if model is None else model
    return cv.Task(model, "cross_entropy", **{"train": (X, Y), "query": (X, Y), **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": lambda x: x}, "a `function`"),
        ({"model": nn.Linear}, "`Linear(…)`"),
        ({"model": "resnet18"}, "'resnet18'"),
        ({"recipe": lambda model: model}, "`recipe` is a `function`"),
        ({"recipe": {"lr": 0.1}}, "cv.Recipe("),
        ({"build": 3}, "lambda seed"),
        ({"mask": [[True]] * 6}, "`mask` is a `list`"),
        ({"inputs": "input_ids"}, '`inputs=["input_ids"]`'),
        ({"labels": 3}, "name of a field"),
        ({"shift_labels": "yes"}, "True or False"),
        ({"name": 3}, "`name`"),
    ],
)
def test_arguments_of_a_task_have_their_types(options, words):
    assert_refused("E0563", lambda: made(**options), words)


def test_a_negative_weight_decay_is_out_of_range():
    assert_refused("E0707", lambda: made(weight_decay=-1), "0 or more")
    assert_refused("E0707", lambda: made(weight_decay=float("nan")), "finite")
    assert_refused(
        "E0705", lambda: made(weight_decay="0.1"), '`weight_decay = "0.1"`', "weight_decay=0.0"
    )
    assert made(weight_decay=np.float32(0.5)).weight_decay == 0.5


@pytest.mark.parametrize("damping", ["0.1", [0.1], True, float("nan"), float("inf"), 1j])
def test_a_damping_is_a_finite_number(damping):
    task = made()
    op = cv.fit("identity", task)
    wrong = isinstance(damping, float)
    code = "E0707" if wrong else "E0705"
    assert_refused(code, lambda: cv.influence(op, task, damping=damping), "`damping")
    assert_refused(code, lambda: op.inverse(damping), "`damping")
    assert_refused("E0563", lambda: op.operator.inverse(damping), "`damping`")
    assert_refused("E0563", lambda: op.logdet(damping), "`damping`")


def test_numbers_of_numpy_and_torch_are_numbers():
    task = made()
    op = cv.fit("identity", task)
    wanted = cv.influence(op, task, damping=0.5)
    for damping in (np.float64(0.5), np.float32(0.5), torch.tensor(0.5)):
        assert_equal(cv.influence(op, task, damping=damping), wanted)


def test_tasks_and_curvatures_stand_in_their_places():
    task = made()
    op = cv.fit("identity", task)
    assert_refused("E0563", lambda: cv.fit("ekfac", None), "a `Task`")
    assert_refused("E0563", lambda: cv.influence(op, nn.Linear(2, 3)), "a `Task`")
    assert_refused("E0563", lambda: cv.influence(3, task, damping=0.1), "cv.fit")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cv.Recipe(lr="0.1"), '`lr = "0.1"`'),
        (lambda: cv.Recipe(batch=2.5), "a whole number"),
        (lambda: cv.Recipe(epochs=None), "`epochs"),
        (lambda: cv.Recipe(nesterov="yes"), "`nesterov=False`"),
        (lambda: cv.Recipe(schedule=3), "a word"),
        (lambda: cv.CrossEntropy(label_smoothing="a"), "`label_smoothing"),
        (lambda: cv.CrossEntropy(weight="heavy"), "a list of numbers"),
        (lambda: cv.BinaryCrossEntropy("12"), "a list of numbers"),
    ],
)
def test_settings_have_their_types(make, words):
    assert_refused("E0705", make, words)


def test_weights_may_be_tensors():
    weight = torch.tensor([1.0, 2.0, 0.5])
    assert cv.CrossEntropy(weight=weight) == cv.CrossEntropy(weight=(1.0, 2.0, 0.5))
    assert cv.BinaryCrossEntropy(weight.tolist()).pos_weight == (1.0, 2.0, 0.5)


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 3)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.layer(x))


CONTAINERS = {
    "an object": lambda f: SimpleNamespace(logits=f, loss=None),
    "a dict": lambda f: {"loss": None, "logits": f},
    "as torchvision": lambda f: OrderedDict(out=f, aux=2 * f),
    "a dict of one": lambda f: {"scores": f},
    "a tuple": lambda f: (f, 2 * f),
    "a list": lambda f: [f],
    "nested": lambda f: ({"logits": SimpleNamespace(logits=f)}, None),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_outputs_in_containers(name):
    task = made(Wrapped(CONTAINERS[name]))
    with torch.no_grad():
        assert_equal(task.model(X), Wrapped(lambda f: f)(X))


@pytest.mark.parametrize(
    ("wrap", "code", "words"),
    [
        (lambda f: {"a": f, "b": f}, "E0557", "`a`, `b`"),
        (lambda f: SimpleNamespace(hidden=f), "E0557", "without logits"),
        (lambda f: None, "E0557", "`NoneType`"),
        (lambda f: (), "E0557", "`tuple`"),
        (lambda f: f.argmax(1), "E0405", "no class axis"),
        (lambda f: f.sum(), "E0408", "first axis"),
    ],
)
def test_outputs_that_are_none_are_refused(wrap, code, words):
    assert_refused(code, lambda: made(Wrapped(wrap)), words)


class Choice(nn.Module):
    """Reads its fields with `.view`, as heads of multiple choice do."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(4, 3), nn.Linear(3, 1)

    def forward(self, input_ids, attention_mask):
        seen = self.table(input_ids.view(-1, 4)) * attention_mask.view(-1, 4, 1)
        return self.head(seen.sum(1)).view(-1, 2)


def test_fields_are_contiguous():
    ids = torch.arange(48).reshape(6, 2, 4) % 4
    rows = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": Y % 2}
    model = Choice()
    task = cv.Task(model, "cross_entropy", rows, rows)
    with torch.no_grad():
        assert_equal(task.model(task.train[0]), model(ids, (ids > 0).long()))
