"""Checkpoints of every kind: scores are those of a loop over unpadded rows with the model's own loss."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.models.data import derived_rows
from curvlang.models.language_models import text_table
from curvlang.models.table_rows import token_reader
from curvlang.storage import scratch
from tests.models.language_models.by_row import ByRow
from tests.models.language_models.checkpoints import lines
from tests.models.language_models.kinds import KINDS, Kind, saved_kind

DAMPING = 0.1
EXACT = 1e-7
"""Of the largest score: two ways to take the same products in float64."""


@pytest.mark.parametrize("name", KINDS)
def test_scores_are_those_of_the_definitions(name):
    kind = saved_kind(name, "model")
    query = kind.rows[:2]
    task = cv.Task.pretrained("model", kind.rows, query=query, **kind.words).to(dtype=torch.float64)
    scores = cv.influence(cv.fit("ekfac_lm_empirical", task), task, damping=DAMPING)
    wanted = ByRow(kind, kind.rows).scores(query, DAMPING)
    assert float((scores - wanted).abs().max()) < EXACT * float(wanted.abs().max())


NAMED = {
    "bert": ("bad", "fair"),
    "several": ("fair, good", "bad, good"),
    "words": ("bad, fair, good", "fair, good, bad"),
    "t5": ("“mat", "“today"),
    "vit": ("bad", "fair"),
}


@pytest.mark.parametrize("name", NAMED)
def test_labels_are_shown_by_their_names(name):
    kind = saved_kind(name, "model")
    if name == "several":
        kind = Kind(
            kind.model,
            [{**r, "label": label} for r, label in zip(kind.rows, LISTS, strict=True)],
            *REST,
        )
    task = cv.Task.pretrained("model", kind.rows, query=kind.rows[:2])
    found = cv.top(torch.eye(2, len(kind.rows)), 1, task)
    for one, wanted in zip(found, NAMED[name], strict=True):
        assert one.label.startswith(wanted)
        assert one.helpful[0].label.startswith(wanted)
    assert wanted in found.table()


LISTS = (
    ["fair", "good"],
    ["bad", "good"],
    [],
    ["bad"],
    ["fair"],
    ["bad", "fair", "good"],
    ["good"],
)
REST = (None, {}, None)


def row(**more):
    return {"text": "the cat sat", "label": "bad", **more}


REFUSED = {
    "a name that the model does not have": ("bert", "E0896", [row(label="great")], {}, "`bad`, `fair`, `good`"),
    "a number beyond the classes": ("bert", "E0896", [row(), row(label=3)][1:], {}, "from 0 to 2"),
    "no column of labels": ("bert", "E0899", [{"text": "a cat"}], {}, "`label = …`"),
    "another column": ("bert", "E0896", [row()], {"label": "lable"}, "did you mean"),
    "words of another kind": ("bert", "E0899", [row()], {"tags": "label"}, "`…ForTokenClassification`"),
    "one class where there are several": ("several", "E0896", [row()], {}, "a list of 3 numbers"),
    "too many numbers": ("several", "E0896", [row(label=[0, 1])], {}, "a list of 3 numbers"),
    "a name where a number is expected": ("numbers", "E0896", [row()], {}, "`regression`"),
    "words without classes": ("words", "E0896", [{"tokens": ["a"], "tags": []}], {}, "1 words"),
    "texts in place of words": ("words", "E0896", [{"tokens": "a cat", "tags": ["bad"]}], {}, "list of words"),
    "words of which none counts": ("words", "E0897", [{"tokens": ["a"], "tags": [-100]}], {}, "row 1"),
    "no column of words": ("words", "E0899", [row()], {}, "`tokens = …`"),
    "no column of targets": ("t5", "E0899", [{"source": "a cat"}], {}, "`target = …`"),
    "an empty target": ("t5", "E0897", [{"source": "a cat", "target": ""}], {}, "no token to predict"),
    "a long target": ("bart", "E0898", [{"source": "a", "target": "the cat " * 20}], {}, "`length = 16`"),
    "an image of another size": ("vit", "E0866", [{"image": torch.zeros(3, 8, 6).tolist(), "label": 0}], {}, "8 × 6"),
    "an image of another depth": ("vit", "E0866", [{"image": torch.zeros(1, 8, 8).tolist(), "label": 0}], {}, "3 channels"),
    "an image that is not there": ("vit", "E0866", [{"image": "nowhere.png", "label": 0}], {}, "cannot be read"),
    "a text in place of an image": ("vit", "E0899", [row()], {}, "`image = …`"),
    "a tokenizer for images": ("vit", "E0899", [row()], {"tokenizer": "model"}, "leave `tokenizer` out"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused(why):
    name, code, rows, words, said = REFUSED[why]
    saved_kind(name, "model")
    with pytest.raises(cv.SpecError, match=code) as caught:
        cv.Task.pretrained("model", rows, query=rows, **words)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["vit", "bert", "gpt2"])
def test_a_checkpoint_on_the_data_of_another_task_is_led_to_its_own(kind):
    saved_kind(kind, "model")
    with pytest.raises(cv.SpecError) as caught:
        cv.task(cv.TaskSource(model="model"))
    assert "--data" in str(caught.value)
    assert "traceback" not in str(caught.value).lower()


def test_images_are_prepared_as_the_checkpoint_says(folder):
    from datasets import Dataset, Features, Image, Value
    from PIL.Image import fromarray
    from transformers import ViTImageProcessor, ViTImageProcessorPil

    saved_kind("vit", "model")
    numbers = torch.Generator().manual_seed(0)
    raw = [
        torch.randint(0, 256, (10, 12, 3), generator=numbers, dtype=torch.uint8) for _ in range(4)
    ]
    pictures = [fromarray(x.numpy()) for x in raw]
    features = Features({"image": Image(), "label": Value("int64")})
    table = Dataset.from_dict({"image": pictures, "label": [0, 1, 2, 0]}, features=features)
    with pytest.raises(cv.SpecError, match=r"E0866.*10 × 12"):
        cv.Task.pretrained("model", table, query=table)
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_std=[0.5, 0.25, 0.2])
    processor.save_pretrained("model")
    task = cv.Task.pretrained("model", table, query=table)
    # The other backend needs a torchvision of torch's own build.
    prepared = ViTImageProcessorPil.from_pretrained("model")(images=pictures, return_tensors="pt")
    assert torch.equal(task.train[0], prepared["pixel_values"])
    for n, x in enumerate(pictures):
        x.save(folder / f"{n}.png")
    paths = [{"image": f"{n}.png", "label": n % 3} for n in range(4)]
    table.save_to_disk("pictures")
    for given in (lines("train.jsonl", paths), "pictures"):
        again = cv.Task.pretrained("model", given, query=given)
        assert torch.equal(again.train[0], task.train[0])


def test_numbers_of_pixels_are_divided_by_255_and_others_kept(folder):
    saved_kind("vit", "model")
    pixels = torch.arange(192).reshape(3, 8, 8)
    for given, wanted in (
        (pixels, pixels / 255),
        (pixels.permute(1, 2, 0), pixels / 255),
        (pixels / 7, pixels / 7),
    ):
        rows = [{"image": given.tolist(), "label": 0}]
        assert torch.allclose(cv.Task.pretrained("model", rows, query=rows).train[0][0], wanted)
    rows = [{"pixel_values": (pixels * 1.0).tolist(), "label": 0}]
    assert torch.equal(cv.Task.pretrained("model", rows, query=rows).train[0][0], pixels * 1.0)


def test_pairs_of_texts_have_kinds_of_tokens():
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    kind = saved_kind("bert", "model")
    plain = kind.saves.backend_tokenizer
    plain.post_processor = TemplateProcessing(pair="$A:0 $B:1", special_tokens=[])
    names = ["input_ids", "token_type_ids", "attention_mask"]
    own = PreTrainedTokenizerFast(tokenizer_object=plain, model_input_names=names)
    own.save_pretrained("model")
    rows = [
        {"a": "the cat sat", "b": "a dog ran", "label": 1},
        {"a": "birds", "b": "fly high", "label": 0},
    ]
    task = cv.Task.pretrained("model", rows, query=rows, text="a", pair="b")
    for one, found in zip(rows, task.model(task.train[0]), strict=True):
        made = own(one["a"], one["b"], return_tensors="pt")
        assert made["token_type_ids"].any()
        with torch.no_grad():
            wanted = kind.model(
                input_ids=made["input_ids"], token_type_ids=made["token_type_ids"]
            ).logits[0]
        assert torch.allclose(found, wanted, atol=1e-6)


def test_classes_that_a_table_names_are_the_models_by_name(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    saved_kind("bert", "model")
    features = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    table = Dataset.from_dict(
        {"text": ["a cat", "a dog"], "label": ["good", "bad"]}, features=features
    )
    assert cv.Task.pretrained("model", table, query=table).train[1].tolist() == [2, 0]


def test_relative_positions_have_no_longest_row():
    saved_kind("t5", "model")
    rows = [{"source": "the cat sat on the mat " * 20, "target": "a cat"}]
    assert cv.Task.pretrained("model", rows, query=rows).N == 1


@pytest.mark.parametrize("name", ["bert", "words", "vit", "t5"])
def test_many_rows_lie_in_a_file_and_are_the_same(name, tmp_path, monkeypatch):
    kind = saved_kind(name, "model")
    given = {"query": kind.rows[:2], **kind.words}
    held = cv.Task.pretrained("model", kind.rows, **given)
    monkeypatch.setenv("CURVLANG_CACHE", str(tmp_path / "cache"))
    scratch._folder.cache_clear()
    monkeypatch.setattr(derived_rows, "HELD", 40)
    monkeypatch.setattr(token_reader, "AT_ONCE", 2)
    monkeypatch.setattr(text_table, "AT_ONCE", 2)
    stored = cv.Task.pretrained("model", kind.rows, **given)
    assert list((tmp_path / "cache").rglob("*.rows"))
    for one, other in zip((*held.train, *held.query), (*stored.train, *stored.query), strict=True):
        assert one.shape == other.shape
        assert torch.equal(one[:], other[:])
    wanted, found = (
        cv.influence(cv.fit("diagonal", x, progress=False), x, damping=DAMPING, progress=False)
        for x in (held, stored)
    )
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
