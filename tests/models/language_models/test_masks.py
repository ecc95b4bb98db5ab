"""Padding that sees nothing, in float64: scores are those of unpadded rows."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from tests.models.language_model import hide_torchvision
from tests.models.language_models.by_hand import gradient, rows_of
from tests.models.language_models.checkpoints import QUERIES, TEXTS, lines, tokenizer

SIZES = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "sliding_window": 2, "bos_token_id": 1,
    "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A decoder whose positions see the last two tokens alone, and whose tokenizer has a token more for padding."""
    hide_torchvision()
    from transformers import MistralConfig, MistralForCausalLM

    own = tokenizer()
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(vocab_size=len(own), **SIZES))
    own.add_special_tokens({"pad_token": "<padding>"})
    at = tmp_path_factory.mktemp("models") / "windowed"
    model.save_pretrained(at)
    own.save_pretrained(at)
    return at, own, model.double().eval()


def test_rows_of_several_lengths_score_as_without_padding(windowed):
    at, own, model = windowed
    assert len(own) == model.config.vocab_size + 1
    lines("train.jsonl", TEXTS)
    lines("query.jsonl", QUERIES)
    task = cv.task(
        cv.TaskSource(model=str(at), data='dataset("train.jsonl", query = "query.jsonl")')
    )
    scores = cv.influence(cv.fit("identity", task), task, damping=1.0)
    G, U = (
        torch.stack([gradient(model, row) for row in rows_of(own, texts)])
        for texts in (TEXTS, QUERIES)
    )
    # The identity and λ = 1 halve the products; masks go through a softmax in float32.
    torch.testing.assert_close(scores, U @ G.T / 2, rtol=1e-5, atol=1e-6)
