"""A tiny random GPT-2 of `transformers`, and dict examples for it; nothing is downloaded."""

from __future__ import annotations

import torch

TOKENS, CONTEXT = 11, 6


def hide_torchvision():
    """A language model needs no torchvision, whose build may be for another torch than ours."""
    from transformers import utils
    from transformers.utils import import_utils

    for module in (utils, import_utils):
        module.is_torchvision_available = lambda *_: False


def gpt2(seed):
    hide_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=TOKENS, n_positions=8, n_embd=8, n_layer=1, n_head=2, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager",
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def batches(n=12, seed=0):
    """Two padded examples among n; labels are the inputs, −100 at the padding."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, TOKENS, (n, CONTEXT), generator=g)
    mask = torch.ones(n, CONTEXT, dtype=torch.int64)
    mask[1, 4:] = mask[2, 5:] = 0
    labels = torch.where(mask == 1, ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
