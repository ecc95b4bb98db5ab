"""Small checkpoints with their tokenizer, made from a few texts; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.models.language_model import hide_torchvision

TEXTS = (
    "the cat sat on the mat",
    "a dog ran in the park today",
    "birds fly high",
    "the dog sat",
    "birds sat in the park on the mat today",
    "a cat ran",
    "the mat in the park",
)
QUERIES = ("the cat ran in the park", "birds fly today")
PAIRS = tuple(
    {"question": " ".join(words[:2]), "answer": " " + " ".join(words[2:]), "kind": n % 3}
    for n, words in enumerate(text.split() for text in (*TEXTS, *QUERIES) if len(text.split()) > 2)
)


def tokenizer(pad=False):
    """A byte-level BPE of the texts' own words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<unk>", "<end>", *(["<pad>"] if pad else [])]
    trainer = trainers.BpeTrainer(vocab_size=64, special_tokens=special, show_progress=False)
    made.train_from_iterator([*TEXTS, *QUERIES], trainer)
    named = {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="<end>", **named
    )


def gpt2(tokens, seed=0, tied=True, layers=1, width=8):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=tokens, n_positions=16, n_embd=width, n_layer=layers, n_head=2, bos_token_id=1,
        eos_token_id=1, tie_word_embeddings=tied,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def saved(folder, **options):
    """A folder of `save_pretrained` with its tokenizer."""
    hide_torchvision()
    own = tokenizer()
    gpt2(len(own), **options).save_pretrained(folder)
    own.save_pretrained(folder)
    return Path(folder)


def lines(path, rows):
    """A file of JSON lines; texts alone become rows of one column."""
    rows = [{"text": x} if isinstance(x, str) else x for x in rows]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(path)


def classifier(folder, pad=True):
    """A decoder that classifies a text by its last token."""
    hide_torchvision()
    from transformers import GPT2Config, GPT2ForSequenceClassification

    own = tokenizer(pad=True)
    torch.manual_seed(0)
    names = ("bad", "fair", "good")
    config = GPT2Config(
        vocab_size=len(own), n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1,
        pad_token_id=2 if pad else None, num_labels=3, id2label=dict(enumerate(names)),
        label2id={name: k for k, name in enumerate(names)},
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    own.save_pretrained(folder)
    return Path(folder)
