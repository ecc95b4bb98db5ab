"""Encoder-decoders with labels alone: their decoder's inputs are the ones their own loss would make."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

import curvlang as cv
from tests.models.language_model import hide_torchvision
from tests.models.support import assert_equal, assert_refused

TOKENS, N = 9, 5
GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(1, TOKENS, (N, 6), generator=GENERATOR)
MASK = torch.ones_like(IDS)
MASK[2, 4:] = 0
LABELS = torch.randint(1, TOKENS, (N, 4), generator=GENERATOR)
LABELS[1, 3:] = -100


def t5():
    hide_torchvision()
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=TOKENS, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_decoder_layers=1,
        num_heads=2, decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def bart():
    hide_torchvision()
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=TOKENS, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=12,
        encoder_attention_heads=2, decoder_attention_heads=2, decoder_ffn_dim=12,
        max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def whisper():
    hide_torchvision()
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=TOKENS, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=12,
        encoder_attention_heads=2, decoder_attention_heads=2, decoder_ffn_dim=12, num_mel_bins=4,
        max_source_positions=8, max_target_positions=16, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config)


def test_speech_is_moved_by_the_function_of_its_module():
    torch.manual_seed(0)
    model = whisper().double().eval()
    sounds = torch.randn(N, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = {"input_features": sounds, "labels": LABELS}
    task = cv.Task(model, "cross_entropy", rows, rows)
    with torch.no_grad():
        found = task.loss.per_example(task.model(task.train[0]), task.train[1])
        for n in range(N):
            one = model(input_features=sounds[n : n + 1], labels=LABELS[n : n + 1])
            counted = int((LABELS[n] != -100).sum())
            assert float(one.loss) * counted == pytest.approx(float(found[n]), rel=1e-5)


@pytest.mark.parametrize("shift", [None, False])
@pytest.mark.parametrize("make", [t5, bart])
def test_losses_are_those_of_the_models_own_loss(make, shift):
    torch.manual_seed(0)
    model = make().double().eval()
    rows = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    options = {} if shift is None else {"shift_labels": shift}
    task = cv.Task(model, "cross_entropy", rows, rows, **options)
    with torch.no_grad():
        found = task.loss.per_example(task.model(task.train[0]), task.train[1])
        for n in range(N):
            one = model(**{name: value[n : n + 1] for name, value in rows.items()})
            own = functional.cross_entropy(one.logits[0], LABELS[n], reduction="sum")
            assert_equal(found[n], own)
            counted = int((LABELS[n] != -100).sum())
            assert float(one.loss) * counted == pytest.approx(float(own), rel=1e-5)


def test_scores_of_bart_are_plain_gradient_products():
    torch.manual_seed(0)
    model = bart().double().eval()
    rows = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    task = cv.Task(model, "cross_entropy", rows, {k: v[:2] for k, v in rows.items()})
    scores = cv.influence(cv.fit("identity", task), task, damping=0.0)
    gradients = []
    for n in range(N):
        one = model(**{name: value[n : n + 1] for name, value in rows.items()})
        loss = functional.cross_entropy(one.logits[0], LABELS[n], reduction="sum")
        own = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(torch.cat([g.flatten() for g in own]))
    rows_ = torch.stack(gradients)
    assert_equal(scores, rows_[:2] @ rows_.T, 1e-9)


def test_moving_labels_a_second_time_is_refused():
    rows = {"input_ids": IDS, "labels": LABELS}
    make = lambda: cv.Task(bart().eval(), "cross_entropy", rows, rows, shift_labels=True)  # noqa: E731
    assert_refused("E0558", make, "encoder-decoder", "`shift_labels=False`")


class Translator(nn.Module):
    """Its encoder's inputs and its decoder's have one padded length."""

    def __init__(self, fails=None):
        super().__init__()
        self.config = SimpleNamespace(is_encoder_decoder=True)
        self.table = nn.Embedding(TOKENS, 3)
        self.head = nn.Linear(3, TOKENS)
        if fails is not None:
            self.prepare_decoder_input_ids_from_labels = fails

    def forward(self, input_ids, attention_mask=None, decoder_input_ids=None):
        seen = self.table(input_ids) * (1 if attention_mask is None else attention_mask[..., None])
        return self.head(self.table(decoder_input_ids) + seen.sum(1, keepdim=True))


def test_the_encoders_mask_says_nothing_about_the_decoders_labels():
    rows = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": IDS, "labels": IDS}
    task = cv.Task(Translator(), "cross_entropy", rows, rows, shift_labels=False)
    assert torch.equal(task.train[1], IDS)


def test_what_cannot_be_made_is_asked_for():
    def fails(labels):
        raise ValueError("no start token")

    rows = {"input_ids": IDS, "labels": IDS}
    for model, words in (
        (Translator(), "`decoder_input_ids`"),
        (Translator(fails), "no start token"),
    ):
        make = lambda model=model: cv.Task(model, "cross_entropy", rows, rows)  # noqa: E731
        assert_refused("E0564", make, words)
