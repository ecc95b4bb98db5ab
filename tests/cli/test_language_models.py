"""`--model DIR --data 'dataset(…)'`: from a checkpoint and a file of texts to scores, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from curvlang.cli.main import run

from tests.models.language_models.by_hand import ByHand, rows_of
from tests.models.language_models.checkpoints import QUERIES, TEXTS, lines, saved

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
