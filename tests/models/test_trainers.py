"""`cv.task_from(trainer)`: the model, rows and loss of a trainer, or the reason why they are not a task's."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from tests.models.language_models.checkpoints import (
    QUERIES,
    TEXTS,
    classifier,
    gpt2,
    hide_torchvision,
    tokenizer,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(texts, own, **columns):
    from datasets import Dataset

    rows = {"input_ids": [own(x)["input_ids"] for x in texts], "text": list(texts)}
    return Dataset.from_dict({**rows, **columns})


def trainer(change="", model=None, **options):
    hide_torchvision()
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    own = tokenizer(pad=True)
    arguments = {
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 2,
    }
    if change == "smoothed":
        arguments["label_smoothing_factor"] = 0.2
    given = {
        "model": gpt2(len(own)) if model is None and "model_init" not in options else model,
        "args": TrainingArguments("out", **arguments),
        "data_collator": DataCollatorForLanguageModeling(own, mlm=False, pad_to_multiple_of=8),
        "train_dataset": table(TEXTS, own),
        "eval_dataset": table(QUERIES, own),
        "processing_class": own,
    }
    return Trainer(**{**given, **options})


def test_the_task_is_the_one_that_was_trained():
    found = trainer()
    found.train()
    task = cv.task_from(found)
    assert (len(TEXTS), len(QUERIES)) == (task.N, task.Q)
    assert not task.model.training
    losses = task.loss.per_example(task.model(task.train[0]), task.train[1]).detach()
    for text, loss in zip(TEXTS, losses, strict=True):
        ids = torch.tensor([tokenizer(pad=True)(text)["input_ids"]])
        with torch.no_grad():
            theirs = found.model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
        assert float((loss - theirs).abs()) < 1e-5
    scores = cv.influence(cv.fit("ekfac_lm", task), task, damping=0.01)
    assert [one.text for one in cv.top(scores, 1, task)] == list(QUERIES)


def test_it_has_the_scores_of_the_checkpoint_that_it_writes():
    found = trainer()
    found.train()
    found.save_model("trained")
    tasks = cv.task_from(found), cv.Task.pretrained("trained", list(TEXTS), query=list(QUERIES))
    one, other = (cv.influence(cv.fit("ekfac_lm", t), t, damping=0.01) for t in tasks)
    assert (one - other).abs().max() < 1e-5 * one.abs().max()


def test_fresh_models_are_those_of_model_init():
    own = tokenizer(pad=True)
    found = trainer(model_init=lambda: gpt2(len(own), seed=int(torch.randint(99, ()))))
    task = cv.task_from(found, recipe=cv.Recipe(epochs=1, lr=0.1, batch=2))
    one, same, other = (task.build(seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_classifier(tmp_path):
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

    own = tokenizer(pad=True)
    model = AutoModelForSequenceClassification.from_pretrained(classifier(tmp_path / "classifier"))
    rows = table(TEXTS, own, label=[k % 3 for k in range(len(TEXTS))])
    found = trainer(
        model=model,
        data_collator=DataCollatorWithPadding(own),
        train_dataset=rows,
        eval_dataset=rows.select([0, 1]),
    )
    task = cv.task_from(found)
    assert task.train[1].tolist() == [k % 3 for k in range(len(TEXTS))]
    assert cv.influence(cv.fit("kfac_lm", task), task, damping=0.1).shape == (2, len(TEXTS))


def weighted(labels, weights):
    """A trainer of a classifier whose loss weighs its classes."""
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

    own = tokenizer(pad=True)
    rows = table(TEXTS, own, label=labels)

    def loss(outputs, labels, **_):
        given = outputs.logits, labels.reshape(-1)
        return torch.nn.functional.cross_entropy(*given, weight=torch.tensor(weights))

    return trainer(
        model=AutoModelForSequenceClassification.from_pretrained(classifier("classifier")),
        data_collator=DataCollatorWithPadding(own),
        train_dataset=rows,
        eval_dataset=rows.select([0, 1]),
        compute_loss_func=loss,
    )


def test_weights_of_classes_are_another_loss():
    """They cancel in the mean of one example, and of several of one class."""
    labels = [k % 3 for k in range(len(TEXTS))]
    with pytest.raises(cv.SpecError, match=r"E0899.*of several examples"):
        cv.task_from(weighted(labels, [1.0, 3.0, 0.5]))
    assert len(TEXTS) == cv.task_from(weighted(labels, [2.0, 2.0, 2.0])).N


@pytest.mark.parametrize("side", ["left", "right"])
def test_trainers_that_pad_smooth_and_accumulate(side):
    from transformers import DataCollatorForLanguageModeling, TrainingArguments

    own = tokenizer(pad=True)
    own.padding_side = side
    arguments = TrainingArguments(
        "out", report_to=[], use_cpu=True, gradient_accumulation_steps=3,
        per_device_train_batch_size=2, label_smoothing_factor=0.1,
    )  # fmt: skip
    given = {"data_collator": DataCollatorForLanguageModeling(own, mlm=False), "args": arguments}
    task = cv.task_from(trainer(processing_class=own, **given))
    plain = cv.task_from(trainer("smoothed"))
    assert torch.equal(task.train[1], plain.train[1])
    assert len(TEXTS) == task.N


def refused(why):
    from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding

    own = tokenizer(pad=True)
    own.add_special_tokens({"mask_token": "<mask>"})
    options = {
        "no training data": {"train_dataset": None},
        "no queries": {"eval_dataset": None},
        "several queries": {"eval_dataset": {"a": table(QUERIES, own), "b": table(QUERIES, own)}},
        "masks that are drawn": {
            "data_collator": DataCollatorForLanguageModeling(own, mlm=True, mlm_probability=0.5)
        },
        "no labels": {"data_collator": DataCollatorWithPadding(own)},
        "another loss": {
            "compute_loss_func": lambda outputs, labels, **_: outputs.logits.square().mean()
        },
    }
    return trainer(why, **options.get(why, {}))


SAID = {
    "no training data": "`train_dataset`",
    "no queries": "query=dataset",
    "several queries": "`a`, `b`",
    "masks that are drawn": "draws what is masked",
    "no labels": "`labels`",
    "another loss": "the trainer's loss",
}


@pytest.mark.parametrize("why", SAID)
def test_what_is_not_a_task(why):
    found = refused(why)
    with pytest.raises(cv.SpecError, match="E0899") as caught:
        cv.task_from(found)
    assert SAID[why] in str(caught.value)


def test_smoothed_labels_are_those_of_the_loss():
    task = cv.task_from(trainer("smoothed"))
    assert "label_smoothing=0.2" in repr(task.loss).replace(" ", "")


def test_the_repair_of_several_queries_works():
    found = refused("several queries")
    assert len(QUERIES) == cv.task_from(found, query=found.eval_dataset["a"]).Q
