"""What checkpoints predict, told by the class that they were saved from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Head:
    """What the models of one kind predict.

    Args:
        ends: Ends of the names of their classes.
        reader: The class of `transformers` that reads them.
        predicts: What, in words.
        words: The words of a `data dataset(…)` line that say which columns are read.
        task_type: What `peft` calls adapters of such models; empty where it has no word for them.
        reads: What `transformers` calls their main inputs.
    """

    ends: tuple[str, ...]
    reader: str
    predicts: str
    words: tuple[str, ...]
    task_type: str = ""
    reads: str = "input_ids"

    def __str__(self) -> str:
        return f"`…{self.ends[0]}`"


NEXT_TOKEN = Head(
    ("ForCausalLM", "LMHeadModel"),
    "AutoModelForCausalLM",
    "tokens",
    ("text", "prompt", "completion", "messages", "length", "pack"),
    "CAUSAL_LM",
)
TEXT_CLASS = Head(
    ("ForSequenceClassification",),
    "AutoModelForSequenceClassification",
    "a class of a text",
    ("text", "pair", "label", "length"),
    "SEQ_CLS",
)
WORD_CLASS = Head(
    ("ForTokenClassification",),
    "AutoModelForTokenClassification",
    "a class of every word",
    ("tokens", "tags", "length"),
    "TOKEN_CLS",
)
TARGET_TEXT = Head(
    ("ForConditionalGeneration", "MTModel", "WithLMHeadModel"),
    "AutoModelForSeq2SeqLM",
    "a text from another one",
    ("source", "target", "length"),
    "SEQ_2_SEQ_LM",
)
IMAGE_CLASS = Head(
    ("ForImageClassification",),
    "AutoModelForImageClassification",
    "a class of an image",
    ("image", "label"),
    reads="pixel_values",
)
HEADS = (TARGET_TEXT, NEXT_TOKEN, TEXT_CLASS, WORD_CLASS, IMAGE_CLASS)
"""Kinds that are read; where two ends fit, the first one counts."""


def head_of(architecture: str) -> Head | None:
    """What a model of this class predicts; None for kinds that are not read."""
    return next((head for head in HEADS if architecture.endswith(head.ends)), None)


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """A head that an adapter brings with it, for a checkpoint that has another one or none.

    Args:
        head: What it predicts.
        modules: Names of the modules whose parameters the adapter's folder has.
        classes: How many it has, where it has classes.
    """

    head: Head
    modules: tuple[str, ...]
    classes: int | None = None


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a model's classes, in order of their numbers."""
    named = {int(k): str(name) for k, name in (config.get("id2label") or {}).items()}
    return tuple(named[k] for k in sorted(named))
