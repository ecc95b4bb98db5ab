"""Small random checkpoints of every kind, with rows for them, and the rows as their own models read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.models.language_models.checkpoints import TEXTS, hide_torchvision, tokenizer

NAMES = ("bad", "fair", "good")
LABELS = dict(enumerate(NAMES))
IDS = {name: k for k, name in LABELS.items()}


@dataclass(frozen=True)
class Kind:
    """A checkpoint's model, the rows of its data set, and how a row is read.

    Args:
        model: Of `transformers`.
        rows: For `cv.Task.pretrained`.
        own: A row as arguments of the model, `labels` among them, one example and no padding.
        words: Of the data line.
        saves: A tokenizer, where the model reads texts.
    """

    model: Any
    rows: list[dict[str, Any]]
    own: Any
    words: dict[str, Any]
    saves: Any


def sizes(hidden="hidden_size", **more):
    return {
        hidden: 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        **more,
    }


def text_rows(label):
    return [{"text": x, "label": label(k)} for k, x in enumerate(TEXTS)]


def text_kind(model, rows, own):
    """A classifier of texts: its labels as it reads them itself."""
    return Kind(
        model,
        rows,
        lambda row, y: {"input_ids": torch.tensor([own(row["text"])["input_ids"]]), "labels": y},
        {},
        own,
    )


def classes(k):
    return NAMES[k % 3]


def kind(name):
    """A kind by its name."""
    hide_torchvision()
    import transformers as hf

    torch.manual_seed(0)
    own = tokenizer(pad=True)
    few = {"vocab_size": len(own), "pad_token_id": 2, "id2label": LABELS, "label2id": IDS}
    bert = sizes(max_position_embeddings=16, **few)
    match name:
        case "bert":
            return text_kind(
                hf.BertForSequenceClassification(hf.BertConfig(**bert)), text_rows(classes), own
            )
        case "roberta":
            config = hf.RobertaConfig(**bert | {"max_position_embeddings": 20})
            return text_kind(hf.RobertaForSequenceClassification(config), text_rows(classes), own)
        case "distilbert":
            config = hf.DistilBertConfig(
                dim=8, hidden_dim=12, n_layers=1, n_heads=2, max_position_embeddings=16, **few
            )
            return text_kind(
                hf.DistilBertForSequenceClassification(config), text_rows(classes), own
            )
        case "gpt2":
            config = hf.GPT2Config(
                n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1, **few
            )
            return text_kind(hf.GPT2ForSequenceClassification(config), text_rows(classes), own)
        case "numbers":
            config = hf.BertConfig(
                **{k: x for k, x in bert.items() if "label" not in k}, num_labels=1
            )
            rows = text_rows(lambda k: 0.5 * k - 1)
            return text_kind(hf.BertForSequenceClassification(config), rows, own)
        case "several":
            config = hf.BertConfig(**bert, problem_type="multi_label_classification")
            rows = text_rows(lambda k: [float(k % 2), float(k % 3 == 0), 1.0])
            return text_kind(hf.BertForSequenceClassification(config), rows, own)
        case "words":
            return words(hf.BertForTokenClassification(hf.BertConfig(**bert)), own)
        case "t5":
            config = hf.T5Config(
                vocab_size=len(own), d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, pad_token_id=2,
                relative_attention_num_buckets=8, decoder_start_token_id=2, eos_token_id=1,
            )  # fmt: skip
            return targets(hf.T5ForConditionalGeneration(config), own)
        case "bart":
            config = hf.BartConfig(
                vocab_size=len(own), d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12, max_position_embeddings=16,
                pad_token_id=2, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=1,
            )  # fmt: skip
            return targets(hf.BartForConditionalGeneration(config), own)
        case "vit":
            config = hf.ViTConfig(
                **sizes(), image_size=8, patch_size=4, id2label=LABELS, label2id=IDS
            )
            return images(hf.ViTForImageClassification(config), 8)
        case "resnet":
            config = hf.ResNetConfig(
                embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", id2label=LABELS,
                label2id=IDS,
            )  # fmt: skip
            return images(spread(hf.ResNetForImageClassification(config)), 16)
        case _:
            raise AssertionError(name)


def words(model, own):
    rows = [
        {"tokens": x.split(), "tags": [NAMES[(k + n) % 3] for n in range(len(x.split()))]}
        for k, x in enumerate(TEXTS)
    ]

    def read(row, _):
        ids, labels = [], []
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            made = own(word)["input_ids"]
            ids += made
            labels += [IDS[tag], *[-100] * (len(made) - 1)]
        return {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}

    return Kind(model, rows, read, {}, own)


def targets(model, own):
    rows = [{"source": x, "target": " ".join(reversed(x.split()))} for x in TEXTS]

    def read(row, _):
        ids = {name: torch.tensor([own(row[name])["input_ids"]]) for name in row}
        return {"input_ids": ids["source"], "labels": ids["target"]}

    return Kind(model, rows, read, {}, own)


def images(model, size):
    g = torch.Generator().manual_seed(0)
    rows = [
        {"image": torch.rand(3, size, size, generator=g).tolist(), "label": k % 3} for k in range(7)
    ]
    read = lambda row, y: {"pixel_values": torch.tensor([row["image"]]), "labels": y}  # noqa: E731
    return Kind(model, rows, read, {}, None)


def spread(model):
    """Means and variances of BatchNorm as training leaves them: neither 0 nor 1."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


KINDS = (
    "bert", "roberta", "distilbert", "gpt2", "numbers", "several", "words", "t5", "bart", "vit", "resnet",
)  # fmt: skip


def saved_kind(name, folder):
    """The kind, its checkpoint in a folder."""
    found = kind(name)
    found.model.eval().save_pretrained(folder)
    if found.saves is not None:
        found.saves.save_pretrained(folder)
    return found


def label_of(row):
    """A label as a model of `transformers` takes it."""
    y = row.get("label")
    if isinstance(y, list):
        return torch.tensor([y])
    return None if y is None else torch.tensor([IDS.get(y, y)])
