"""Mixtures of experts in float64: experts pick tokens, and a shared expert reads all rows of a batch as one."""

from __future__ import annotations

import torch

import curvlang as cv
from tests.models.language_model import hide_torchvision
from tests.models.language_models.by_hand import gradient, rows_of
from tests.models.language_models.checkpoints import QUERIES, TEXTS, lines, tokenizer

SIZES = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 4,
    "shared_expert_intermediate_size": 6, "max_position_embeddings": 32, "bos_token_id": 1,
    "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip


def test_queries_of_another_length_than_what_the_curvature_was_fitted_on(tmp_path):
    hide_torchvision()
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    own = tokenizer()
    torch.manual_seed(0)
    made = Qwen2MoeForCausalLM(Qwen2MoeConfig(vocab_size=len(own), **SIZES))
    made.save_pretrained(tmp_path / "experts")
    own.save_pretrained(tmp_path / "experts")
    lines("train.jsonl", TEXTS)
    lines("query.jsonl", QUERIES)
    source = cv.TaskSource(
        model=str(tmp_path / "experts"), data='dataset("train.jsonl", query = "query.jsonl")'
    )
    task = cv.task(source)
    op = cv.fit("ekfac_lm", task, progress=False)
    scores = cv.influence(op, task, damping=0.01, progress=False)
    model = Qwen2MoeForCausalLM.from_pretrained(
        tmp_path / "experts", attn_implementation="eager", experts_implementation="eager"
    )
    G, U = (
        torch.stack([gradient(model.double().eval(), row) for row in rows_of(own, texts)])
        for texts in (TEXTS, QUERIES)
    )
    inverse = op.inverse(damping=0.01)
    solved = torch.stack([inverse @ v for v in G])
    assert [n for n, _ in model.named_parameters()] == list(task.parameters)
    torch.testing.assert_close(
        scores, U @ solved.T, rtol=1e-4, atol=1e-5 * float(scores.abs().max())
    )
