"""Which texts taught a fine-tuned language model what it says? A GPT-2 made here, fine-tuned on facts, asked about one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from drawing import picture

import curvlang as cv

PLACES = ("paris", "rome", "oslo", "cairo", "lima", "tokyo")
LANDS = ("france", "italy", "norway", "egypt", "peru", "japan")
TEXTS = [
    *(f"the capital of {land} is {place}" for place, land in zip(PLACES, LANDS, strict=True)),
    *(f"{place} is in {land}" for place, land in zip(PLACES, LANDS, strict=True)),
    "the sun is warm", "the sea is deep", "the night is dark", "the road is long",
]  # fmt: skip
ASKED = "the capital of norway is oslo"


def main(folder: Path) -> list[str]:
    """The three texts that helped most with the query."""
    checkpoint = fine_tuned(folder / "checkpoint")
    (folder / "asked.jsonl").write_text(json.dumps({"text": ASKED}))
    task = cv.Task.pretrained(checkpoint, TEXTS, query=str(folder / "asked.jsonl"))
    op = cv.fit("ekfac_lm_empirical", task, progress=False)
    scores = cv.influence(op, task, damping=0.1, progress=False)
    print(cv.top(scores, 3, task))

    order = scores[0].argsort()
    with picture(folder / "language_model.svg", size=(4.6, 3.4)) as axes:
        colours = ["C0" if scores[0, n] > 0 else "C3" for n in order]
        axes.barh([TEXTS[n] for n in order], scores[0, order], color=colours)
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.set(xlabel=f"influence on “{ASKED}”")
    return [TEXTS[n] for n in order.flip(0)[:3].tolist()]


def fine_tuned(folder: Path) -> Path:
    """A checkpoint with its tokenizer; stands for yours."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<unk>", "<end>", *sorted({w for text in TEXTS for w in text.split()})]
    own = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    typed: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast  # it has no types
    tokenizer = typed(tokenizer_object=own, unk_token="<unk>", eos_token="<end>", pad_token="<end>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words), n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1,
        eos_token_id=1, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(20):
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            optimiser.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main(Path())
