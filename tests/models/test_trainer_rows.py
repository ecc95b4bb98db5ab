"""`cv.task_from(trainer)` for models of every kind: its scores are those of the checkpoint that it writes."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from tests.models.language_models.kinds import IDS, saved_kind


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def row_of(name, kind, row):
    """A row as a data set for a trainer has it, and its collator's kind."""
    own = kind.saves
    match name:
        case "words" | "t5" | "bart":
            return {k: x[0].tolist() for k, x in kind.own(row, None).items()}
        case "vit":
            return {"pixel_values": row["image"], "labels": row["label"]}
        case _:
            label = row["label"]
            return {
                "input_ids": own(row["text"])["input_ids"],
                "labels": IDS.get(label, label) if isinstance(label, str) else label,
            }


def collator(name, own):
    import transformers as hf

    match name:
        case "words":
            return hf.DataCollatorForTokenClassification(own, pad_to_multiple_of=8)
        case "t5" | "bart":
            return hf.DataCollatorForSeq2Seq(own, pad_to_multiple_of=8)
        case "vit":
            return hf.default_data_collator
        case _:
            return hf.DataCollatorWithPadding(own, pad_to_multiple_of=8)


@pytest.mark.parametrize("name", ["numbers", "several", "words", "t5", "bart", "vit"])
def test_the_task_is_that_of_the_checkpoint(name):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    kind = saved_kind(name, "model")
    rows = Dataset.from_list([row_of(name, kind, row) for row in kind.rows])
    found = Trainer(
        model=kind.model,
        args=TrainingArguments("out", report_to=[], use_cpu=True, save_strategy="no"),
        data_collator=collator(name, kind.saves),
        train_dataset=rows,
        eval_dataset=rows.select([0, 1]),
        processing_class=kind.saves,
    )
    ours = cv.task_from(found)
    theirs = cv.Task.pretrained("model", kind.rows, query=kind.rows[:2])
    assert ours.loss == theirs.loss
    one, other = (
        cv.influence(cv.fit("ekfac_lm_empirical", t), t, damping=0.1) for t in (ours, theirs)
    )
    assert float((one - other).abs().max()) < 1e-4 * float(other.abs().max())
    labels = [[x.label for x in cv.top(one, 1, t)] for t in (ours, theirs)]
    assert labels[0] == labels[1]


def test_a_part_of_a_target_that_is_not_predicted_is_read():
    kind = saved_kind("t5", "model")
    row = {"input_ids": [3, 4, 5], "labels": [6, -100, 7, 8, -100, -100]}
    task = cv.Task.pretrained("model", [row], query=[row])
    f, y = task.model(task.train[0]), task.train[1]
    labels = torch.tensor([row["labels"][:4]])
    wanted = kind.model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss * 3
    assert float((task.loss.per_example(f, y)[0] - wanted).detach().abs()) < 1e-5
