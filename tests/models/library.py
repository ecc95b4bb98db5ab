"""Small random models of `transformers`, in float64 and evaluation mode, with inputs; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.models.language_model import hide_torchvision

hide_torchvision()

import transformers as tf  # noqa: E402

N, T, V, K = 4, 5, 7, 3
"""Examples, tokens, words and classes."""

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 10,
    "vocab_size": V,
    "max_position_embeddings": 16,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
QUIET = {"use_cache": False}

Rows = dict[str, Tensor]


def words() -> Rows:
    ids = torch.randint(3, V, (N, T))
    return {"input_ids": ids, "labels": ids}


def classes() -> Rows:
    return {"input_ids": torch.randint(3, V, (N, T)), "labels": torch.randint(0, K, (N,))}


def both() -> Rows:
    ids = torch.randint(3, V, (N, T))
    return {"input_ids": ids, "decoder_input_ids": ids.flip(1)[:, :3], "labels": ids[:, :3]}


def pixels(size: int = 8) -> Callable[[], Rows]:
    return lambda: {
        "pixel_values": torch.randn(N, 3, size, size).double(),
        "labels": torch.randint(0, K, (N,)),
    }


def sound() -> Rows:
    return {
        "input_values": torch.randn(N, 60).double(),
        "labels": torch.randint(0, K, (N,)),
    }


def qwen_moe() -> Any:
    config = tf.Qwen2MoeConfig(
        **SMALL,
        num_key_value_heads=1,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=6,
        shared_expert_intermediate_size=6,
    )
    model = tf.Qwen2MoeForCausalLM(config)
    # The fused product of experts takes no float64.
    model.set_experts_implementation("eager")
    return model


def adapted(**options: Any) -> Any:
    import peft

    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], lora_dropout=0.0, **options
    )
    model = peft.get_peft_model(llama(), config)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    return model


def llama() -> Any:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, num_key_value_heads=1))


def convolutional(**sizes: Any) -> Any:
    return tf.EfficientNetForImageClassification(
        tf.EfficientNetConfig(
            image_size=8,
            width_coefficient=0.0125,
            in_channels=[8, 8],
            out_channels=[8, 8],
            kernel_sizes=[3, 3],
            strides=[1, 2],
            num_block_repeats=[1, 1],
            expand_ratios=[1, 2],
            hidden_dim=16,
            num_labels=K,
            **sizes,
        )
    )


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Rows], bool | None]] = {
    "GPT-2": (
        lambda: tf.GPT2LMHeadModel(
            tf.GPT2Config(vocab_size=V, n_positions=8, n_embd=8, n_layer=1, n_head=2, **TOKENS)
        ),
        words,
        True,
    ),
    "Llama": (llama, words, True),
    "Qwen with experts": (qwen_moe, words, True),
    "OPT": (
        lambda: tf.OPTForCausalLM(
            tf.OPTConfig(
                vocab_size=V,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                ffn_dim=10,
                max_position_embeddings=16,
                word_embed_proj_dim=8,
                **TOKENS,
            )
        ),
        words,
        True,
    ),
    "Mamba": (
        lambda: tf.MambaForCausalLM(
            tf.MambaConfig(
                vocab_size=V,
                hidden_size=6,
                state_size=3,
                num_hidden_layers=1,
                conv_kernel=3,
                **QUIET,
            )
        ),
        words,
        True,
    ),
    "BERT": (
        lambda: tf.BertForSequenceClassification(tf.BertConfig(**SMALL, num_labels=K)),
        classes,
        None,
    ),
    "BERT for tokens": (
        lambda: tf.BertForTokenClassification(tf.BertConfig(**SMALL, num_labels=V)),
        words,
        False,
    ),
    "DeBERTa": (
        lambda: tf.DebertaV2ForSequenceClassification(
            tf.DebertaV2Config(
                **SMALL,
                num_labels=K,
                relative_attention=True,
                pos_att_type=["p2c", "c2p"],
                pooler_hidden_size=8,
            )
        ),
        classes,
        None,
    ),
    "T5": (
        lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(
                vocab_size=V,
                d_model=8,
                d_kv=4,
                d_ff=10,
                num_layers=1,
                num_decoder_layers=1,
                num_heads=2,
                decoder_start_token_id=0,
                pad_token_id=0,
            )
        ),
        both,
        False,
    ),
    "BART": (
        lambda: tf.BartForConditionalGeneration(
            tf.BartConfig(
                vocab_size=V,
                d_model=8,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=10,
                decoder_ffn_dim=10,
                max_position_embeddings=16,
                forced_eos_token_id=None,
                **TOKENS,
            )
        ),
        both,
        False,
    ),
    "ViT": (
        lambda: tf.ViTForImageClassification(
            tf.ViTConfig(
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=10,
                image_size=8,
                patch_size=4,
                num_labels=K,
            )
        ),
        pixels(),
        None,
    ),
    "Swin": (
        lambda: tf.SwinForImageClassification(
            tf.SwinConfig(
                image_size=8,
                patch_size=2,
                embed_dim=4,
                depths=[1, 1],
                num_heads=[1, 2],
                window_size=2,
                num_labels=K,
            )
        ),
        pixels(),
        None,
    ),
    "ConvNeXt": (
        lambda: tf.ConvNextForImageClassification(
            tf.ConvNextConfig(
                hidden_sizes=[4, 6], depths=[1, 1], num_stages=2, patch_size=2, num_labels=K
            )
        ),
        pixels(),
        None,
    ),
    "ResNet": (
        lambda: tf.ResNetForImageClassification(
            tf.ResNetConfig(
                embedding_size=4,
                hidden_sizes=[4, 6],
                depths=[1, 1],
                layer_type="basic",
                num_labels=K,
            )
        ),
        pixels(),
        None,
    ),
    "EfficientNet": (convolutional, pixels(), None),
    "wav2vec 2": (
        lambda: tf.Wav2Vec2ForSequenceClassification(
            tf.Wav2Vec2Config(
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=10,
                conv_dim=(4, 4),
                conv_stride=(3, 2),
                conv_kernel=(4, 3),
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                classifier_proj_size=6,
                num_labels=K,
            )
        ),
        sound,
        None,
    ),
    "LoRA": (adapted, words, True),
    "DoRA": (lambda: adapted(use_dora=True), words, True),
}
