"""`--model DIR --data 'dataset(…)'`: from a checkpoint and a file of texts to scores, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from curvlang.cli.main import run

from tests.models.language_models.by_hand import ByHand, rows_of
from tests.models.language_models.by_row import ByRow
from tests.models.language_models.checkpoints import QUERIES, TEXTS, lines, saved
from tests.models.language_models.kinds import saved_kind

DATA = 'dataset("train.jsonl", query = "query.jsonl", text = "text")'


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", at / "cache")
        saved("gpt2")
        saved("untied", tied=False, seed=1)
        lines("train.jsonl", TEXTS)
        lines("query.jsonl", QUERIES)
        yield at


def loaded(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager")
    return model.double().eval(), AutoTokenizer.from_pretrained(name)


APART = {
    "gpt2": ["transformer.wpe"],
    "untied": ["transformer.wte", "transformer.wpe", "lm_head"],
}


@pytest.mark.parametrize("name", APART)
def test_scores_are_those_of_the_definitions(name, capsys):
    command = ["influence", "ekfac_lm", "--model", name, "--data", DATA, "--damping", "0.01"]
    assert run([*command, "--top", "2", "--out", "s.npy"]) == 0
    shown = capsys.readouterr().out
    assert f"“{QUERIES[0]}”" in shown
    assert any(f"“{text}”" in shown for text in TEXTS)
    model, tokenizer = loaded(name)
    by_hand = ByHand(model, rows_of(tokenizer, TEXTS))
    wanted = by_hand.scores(rows_of(tokenizer, QUERIES), 0.01, diagonal=APART[name])
    scores = torch.from_numpy(np.load("s.npy"))
    assert (scores - wanted).abs().max() < 1e-5 * wanted.abs().max()


KINDS = {
    "numbers": "target -0.5",
    "words": "label fair, good",
    "t5": "label “today",
    "vit": "label fair",
}
"""Kinds of models, and how the second query's label is shown."""


@pytest.mark.parametrize("name", KINDS)
def test_models_of_every_kind(name, capsys):
    kind = saved_kind(name, name)
    lines(f"{name}.jsonl", kind.rows)
    lines("asked.jsonl", kind.rows[:2])
    data = f'dataset("{name}.jsonl", query = "asked.jsonl")'
    command = ["influence", "ekfac_lm_empirical", "--model", name, "--data", data]
    assert run([*command, "--damping", "0.1", "--top", "1", "--out", "k.npy"]) == 0
    assert KINDS[name] in capsys.readouterr().out
    wanted = ByRow(kind, kind.rows).scores(kind.rows[:2], 0.1)
    scores = torch.from_numpy(np.load("k.npy"))
    assert (scores - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_labels_have_their_names_in_groups_json_and_reports(capsys):
    kind = saved_kind("bert", "judge")
    lines("kinds.jsonl", kind.rows)
    command = [
        "influence",
        "ekfac_lm",
        "--model",
        "judge",
        "--data",
        'dataset("kinds.jsonl", query = "kinds.jsonl")',
    ]
    command += ["--damping", "0.1", "--top", "1", "--out", "k.npy"]
    assert run([*command, "--group", "label"]) == 0
    assert re.findall(r"group (\w+)", capsys.readouterr().out) == ["bad", "fair", "good"]
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["top"]
    assert [one["label"] for one in found] == ["bad", "fair", "good"]


def test_the_loss_of_a_checkpoint_takes_the_place_of_a_specs(capsys):
    saved_kind("numbers", "numbers")
    Path("own.cv").write_text(
        'task own { data dataset("n.jsonl", query = "n.jsonl") model pretrained("numbers") loss cross_entropy '
        "train sgd(lr = 0.1, batch = 2, epochs = 1) }\nevaluate ekfac_lm on own { }\n"
    )
    lines("n.jsonl", [{"text": "a cat", "label": 0.5}, {"text": "a dog", "label": 1.5}])
    assert run(["eval", "own.cv"]) == 2
    assert "E0865" in capsys.readouterr().err
    assert run(["influence", "own.cv", "--model", "numbers", "--out", "n.npy"]) == 0
    assert ", mse, " in capsys.readouterr().err
