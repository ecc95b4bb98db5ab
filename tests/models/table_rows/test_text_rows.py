"""Texts become the tokens and labels that they should: whole, cut, packed, after a prompt, with a class."""

from __future__ import annotations

import pytest
import torch

import curvlang as cv
from curvlang.models.data import derived_rows
from curvlang.models.data.rows import StoredRows
from curvlang.models.language_models import text_table
from tests.models.language_models.checkpoints import PAIRS, QUERIES, TEXTS, classifier


def tokens(checkpoint, text):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"]


def fields(task, part="train"):
    """The rows of a part: tokens that count, and the tokens predicted at each position."""
    X, y = task.part(part)
    layout = type(task.model).curvlang_layout.unpack(X)
    mask = layout["attention_mask"] != 0
    return [
        (ids[m].tolist(), labels[m].tolist())
        for ids, m, labels in zip(layout["input_ids"], mask, y, strict=True)
    ]


def test_a_whole_text_predicts_every_token_but_its_first(checkpoint):
    task = cv.Task.pretrained(checkpoint, list(TEXTS), query=list(QUERIES))
    assert (len(TEXTS), len(QUERIES)) == (task.N, task.Q)
    for text, (ids, predicted) in zip(TEXTS, fields(task), strict=True):
        assert ids == tokens(checkpoint, text)
        assert predicted == [*ids[1:], -100]


def test_length_cuts_rows(checkpoint):
    task = cv.Task.pretrained(checkpoint, list(TEXTS), query=list(QUERIES), length=3)
    assert [ids for ids, _ in fields(task)] == [tokens(checkpoint, x)[:3] for x in TEXTS]
    assert max(len(ids) for ids, _ in fields(task, "query")) == 3


def test_packed_texts_stand_behind_each_other_and_queries_stay_apart(checkpoint):
    task = cv.Task.pretrained(checkpoint, list(TEXTS), query=list(QUERIES), length=8, pack=True)
    rows = [ids for ids, _ in fields(task)]
    end = 1
    assert [x for row in rows for x in row] == [
        x for text in TEXTS for x in (*tokens(checkpoint, text), end)
    ]
    assert {len(row) for row in rows[:-1]} == {8}
    assert [ids for ids, _ in fields(task, "query")] == [tokens(checkpoint, x)[:8] for x in QUERIES]


def test_a_prompt_is_read_and_not_predicted(checkpoint):
    rows = list(PAIRS)
    task = cv.Task.pretrained(
        checkpoint, rows, query=rows[:2], prompt="question", completion="answer"
    )
    for row, (ids, predicted) in zip(rows, fields(task), strict=True):
        asked, told = (tokens(checkpoint, row[x]) for x in ("question", "answer"))
        assert ids == asked + told
        assert predicted == [-100] * (len(asked) - 1) + told + [-100]
    seen = cv.top(torch.eye(2, len(rows)), 1, task)
    assert seen[0].helpful[0].text == rows[0]["question"] + rows[0]["answer"]


def test_the_loss_of_a_row_is_that_of_its_model_alone(checkpoint):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    rows = list(PAIRS)
    task = cv.Task.pretrained(
        checkpoint, rows, query=rows[:2], prompt="question", completion="answer"
    )
    ours = task.loss.per_example(task.model(task.train[0]), task.train[1])
    for row, loss in zip(rows, ours, strict=True):
        asked, told = (tokens(checkpoint, row[x]) for x in ("question", "answer"))
        labels = torch.tensor([[-100] * len(asked) + told])
        theirs = model(input_ids=torch.tensor([asked + told]), labels=labels).loss * len(told)
        assert float((loss - theirs).abs()) < 1e-5


def test_tokens_that_are_given_are_taken_without_their_padding(checkpoint):
    ids = [tokens(checkpoint, x) for x in TEXTS]
    width = max(map(len, ids))
    padded = [
        {
            "input_ids": row + [0] * (width - len(row)),
            "attention_mask": [1] * len(row) + [0] * (width - len(row)),
            "labels": row + [-100] * (width - len(row)),
        }
        for row in ids
    ]
    plain = [{"input_ids": row} for row in ids]
    found = [
        fields(cv.Task.pretrained(checkpoint, rows, query=rows[:2])) for rows in (padded, plain)
    ]
    assert (
        found[0] == found[1] == fields(cv.Task.pretrained(checkpoint, list(TEXTS), query=["a cat"]))
    )


@pytest.mark.parametrize("label", [lambda k: k, lambda k: ("bad", "fair", "good")[k]])
def test_classes_are_numbers_or_the_names_that_the_model_has(tmp_path, label):
    at = classifier(tmp_path / "classifier")
    rows = [{"text": x, "kind": label(k % 3)} for k, x in enumerate(TEXTS)]
    task = cv.Task.pretrained(at, rows, query=rows[:2], label="kind")
    assert task.train[1].tolist() == [k % 3 for k in range(len(TEXTS))]
    scores = cv.influence(cv.fit("ekfac_lm", task), task, damping=0.1)
    assert scores.shape == (2, len(TEXTS))
    assert "label 1" in str(task.query[1]) or cv.top(scores, 1, task)[0].text == TEXTS[0]


def test_classes_of_a_row_do_not_depend_on_its_padding(tmp_path):
    from transformers import AutoModelForSequenceClassification

    at = classifier(tmp_path / "classifier")
    rows = [{"text": x, "kind": 0} for x in TEXTS]
    task = cv.Task.pretrained(at, rows, query=rows[:2], label="kind")
    model = AutoModelForSequenceClassification.from_pretrained(at).eval()
    for x, f in zip(TEXTS, task.model(task.train[0]), strict=True):
        alone = model(input_ids=torch.tensor([tokens(at, x)])).logits[0]
        assert float((alone - f).abs().max()) < 1e-5


def row(text="the cat sat", **more):
    return {"text": text, **more}


LONG = "the cat sat on the mat " * 5
REFUSED = {
    "no such column": ("E0896", [row()], {"text": "txt"}, "did you mean"),
    "nothing in a row": ("E0896", [row(), row(None)], {}, "at row 2"),
    "numbers": ("E0896", [{"text": 3}], {}, "a `int` at row 1"),
    "a conversation": ("E0896", [{"text": [{"role": "user"}]}], {}, "`messages = …`"),
    "prompts that are not named": ("E0896", [{"prompt": "a", "completion": "b"}], {}, "prompt = \"prompt\""),
    "one of two columns": ("E0896", [row()], {"prompt": "text"}, "without `completion`"),
    "both ways": ("E0896", [row()], {"text": "x", "prompt": "a", "completion": "b"}, "both say"),
    "packed prompts": ("E0896", [row()], {"prompt": "a", "completion": "b", "pack": True}, "leave `pack` out"),
    "an empty text": ("E0897", [row(), row("")], {}, "row 2"),
    "a text of one token": ("E0897", [row("the")], {}, "row 1"),
    "no completion": ("E0897", [row(a="")], {"prompt": "text", "completion": "a"}, "row 1"),
    "a completion cut off": ("E0897", [row(a=" on")], {"prompt": "text", "completion": "a", "length": 2}, "cuts off"),
    "longer than the positions": ("E0898", [row(), row(LONG)], {}, "`length = 16`"),
    "a length beyond the positions": ("E0898", [row()], {"length": 17}, "`length = 16`"),
    "labels of a causal model": ("E0899", [row(kind=1)], {"label": "kind"}, "predicts tokens"),
    "labels of another length": ("E0896", [{"input_ids": [1, 2, 3], "labels": [1, 2]}], {}, "2 labels"),
    "tokens that are not numbers": ("E0896", [{"input_ids": "abc"}], {}, "list of tokens"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_rows_that_are_refused(checkpoint, why):
    code, rows, words, said = REFUSED[why]
    with pytest.raises(cv.SpecError, match=code) as caught:
        cv.Task.pretrained(checkpoint, rows, query=rows, **words)
    assert said in str(caught.value)


@pytest.mark.parametrize("repair", [{"length": 16}, {"length": 16, "pack": True}])
def test_what_the_repair_of_long_rows_says_works(checkpoint, repair):
    rows = [row(), row(LONG)]
    task = cv.Task.pretrained(checkpoint, rows, query=rows, **repair)
    assert all(len(ids) <= 16 for ids, _ in fields(task))


@pytest.mark.parametrize("odd", [7, "other", None, 1.5])
def test_classes_that_the_model_does_not_have(tmp_path, odd):
    at = classifier(tmp_path / "classifier")
    rows = [
        {"text": "the cat sat", "kind": x} for x in ([0, odd] if odd != "other" else ["bad", odd])
    ]
    with pytest.raises(cv.SpecError, match=r"E0896|E0405"):
        cv.Task.pretrained(at, rows, query=rows[:1], label="kind")


def test_a_classifier_needs_a_column_of_classes_and_a_token_of_padding(tmp_path):
    at, bare = classifier(tmp_path / "a"), classifier(tmp_path / "b", pad=False)
    rows = [{"text": "the cat sat", "kind": 0}]
    with pytest.raises(cv.SpecError, match=r"(?s)E0899.*`label = …`"):
        cv.Task.pretrained(at, rows, query=rows)
    with pytest.raises(cv.SpecError, match=r"E0897.*padding"):
        cv.Task.pretrained(bare, rows, query=rows, label="kind")
    named = [{"text": "the cat sat", "label": 2}]
    assert cv.Task.pretrained(at, named, query=named).train[1].tolist() == [2]


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"length": 3},
        {"length": 5, "pack": True},
        {"prompt": "question", "completion": "answer"},
    ],
    ids=["whole", "cut", "packed", "prompts"],
)
def test_many_tokens_lie_in_a_file_and_are_the_same(checkpoint, folder, monkeypatch, words):
    rows = list(PAIRS) if "prompt" in words else list(TEXTS)
    memory = cv.Task.pretrained(checkpoint, rows, query=rows[:2], **words)
    monkeypatch.setattr(derived_rows, "HELD", 40)
    monkeypatch.setenv("CURVLANG_CACHE", str(folder / "cache"))
    monkeypatch.setattr(text_table, "AT_ONCE", 2)
    stored = cv.Task.pretrained(checkpoint, rows, query=rows[:2], **words)
    assert isinstance(stored.train[0], StoredRows)
    assert torch.equal(stored.train[0][:], memory.train[0])
    assert torch.equal(stored.train[1][:], memory.train[1])
    assert stored.fingerprint() == memory.fingerprint()
    found, wanted = (
        cv.influence(cv.fit("kfac_lm", task), task, damping=0.1) for task in (stored, memory)
    )
    assert float((found - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


def test_a_wrong_entry_far_down_is_named_by_its_row(checkpoint, monkeypatch):
    monkeypatch.setattr(text_table, "AT_ONCE", 2)
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4 + [
        {"input_ids": [1, 2], "labels": [1]}
    ]
    with pytest.raises(cv.SpecError, match="row 5 of"):
        cv.Task.pretrained(checkpoint, rows, query=rows[:1])
