"""Retraining of checkpoints by workers: a task is made again from its text, whatever its model reads."""

from __future__ import annotations

import pytest

import curvlang as cv
from curvlang.evaluation.retraining.remote import portable, trained_stack, unpacked
from curvlang.evaluation.retraining.truth_request import TruthRequest
from tests.models.language_models.checkpoints import TEXTS, lines, saved
from tests.models.language_models.kinds import saved_kind

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = """task mine {{
  data    dataset("rows.jsonl", query = "rows.jsonl")
  model   pretrained("model")
  loss    {}
  train   sgd(lr = 0.1, batch = 4, epochs = 1)
}}
evaluate ekfac_lm on mine {{ }}
"""
LOSSES = {
    "next": "cross_entropy",
    "bert": "cross_entropy",
    "numbers": "mse",
    "t5": "cross_entropy",
    "vit": "cross_entropy",
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_worker_trains_the_same_models(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    if name == "next":
        saved("model")
    lines("rows.jsonl", TEXTS if name == "next" else saved_kind(name, "model").rows)
    (tmp_path / "mine.cv").write_text(TASK.format(LOSSES[name]))
    spec = cv.load(tmp_path / "mine.cv").evaluations[0].task
    request = TruthRequest.of(cv.task(spec), cv.LDS(subsets=2, retrains=1), 0)
    order = portable(request, request.key())
    stack = request.stacks()[0]
    wanted = request.retraining().trained(stack)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (unpacked(trained_stack(order.about, stack.name)) == wanted.numpy()).all()
