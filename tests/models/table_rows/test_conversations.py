"""Conversations: the template's own tokens, and as labels what the assistant says."""

from __future__ import annotations

from itertools import accumulate

import pytest

import curvlang as cv
from tests.models.language_models.checkpoints import gpt2, saved, tokenizer
from tests.models.table_rows.test_text_rows import fields

TURNS = "{% for m in messages %}{{ m['role'][0] + ' ' + m['content'] + '<end>' }}{% endfor %}"
OPEN = "{% if add_generation_prompt %}{{ 'a ' }}{% endif %}"
LAST = TURNS.replace("m['content']", "(m['content'] if loop.last else 'the')")
"""A template that writes earlier turns otherwise once later ones follow."""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A checkpoint whose tokenizer has a template."""

    def made(template):
        at = saved(tmp_path_factory.mktemp("spoken"))
        own = tokenizer()
        own.chat_template = template
        own.save_pretrained(at)
        gpt2(len(own)).save_pretrained(at)
        return at, own

    return made


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


ROWS = [
    [turn("user", "the cat"), turn("assistant", "sat on")],
    [turn("user", "a dog"), turn("assistant", "ran"), turn("user", "in"), turn("assistant", "park")],
    [turn("user", "birds", name="me"), turn("assistant", "fly")],
]  # fmt: skip


def by_hand(own, messages):
    """Tokens, and those that stand in an answer or its end, by the letters before each."""
    text, said = "", []
    for one in messages:
        text += one["role"][0] + " "
        start = len(text)
        text += one["content"] + "<end>"
        said += [(start, len(text))] if one["role"] == "assistant" else []
    ids = own(text)["input_ids"]
    letters = [1 if x == "<unk>" else len(x) for x in own.convert_ids_to_tokens(ids)]
    ends = [*accumulate(letters)]
    assert ends[-1] == len(text)
    starts = [0, *ends[:-1]]
    return ids, [
        x if any(first < end and start < last for first, last in said) else -100
        for x, start, end in zip(ids, starts, ends, strict=True)
    ]


@pytest.mark.parametrize("column", ["messages", "turns"])
def test_answers_are_predicted(spoken, column):
    at, own = spoken(TURNS + OPEN)
    rows = [{column: x} for x in ROWS]
    named = {} if column == "messages" else {"messages": column}
    task = cv.Task.pretrained(at, rows, query=rows[:1], **named)
    for messages, (ids, predicted) in zip(ROWS, fields(task), strict=True):
        wanted, labels = by_hand(own, messages)
        assert ids == wanted
        assert predicted == [*labels[1:], -100]
        assert len(set(labels)) > 2
    assert cv.influence(cv.fit("ekfac_lm", task), task, damping=0.1).shape == (1, 3)


REFUSED = {
    "no template": ("E0894", None, ROWS[0], "no template"),
    "another text": ("E0896", LAST + OPEN, ROWS[1], "only answer"),
    "no answer": ("E0897", TURNS, ROWS[0][:1], "assistant"),
    "no list": ("E0896", TURNS, "hello", "list of messages"),
    "what the template says": ("E0896", "{{ raise_exception('no such role') }}", ROWS[0], "no such role"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_conversations_that_are_refused(spoken, why):
    code, template, messages, said = REFUSED[why]
    at, _ = spoken(template)
    rows = [{"messages": messages}]
    with pytest.raises(cv.SpecError, match=rf"(?s){code}.*{said}"):
        cv.Task.pretrained(at, rows, query=rows)


def test_they_are_not_packed_and_are_cut(spoken):
    at, own = spoken(TURNS + OPEN)
    rows = [{"messages": x} for x in ROWS]
    with pytest.raises(cv.SpecError, match="leave `pack` out"):
        cv.Task.pretrained(at, rows, query=rows, pack=True)
    with pytest.raises(cv.SpecError, match="`length`"):
        cv.Task.pretrained(at, rows, query=rows, length=2)
    task = cv.Task.pretrained(at, rows, query=rows, length=12)
    assert [ids for ids, _ in fields(task)] == [by_hand(own, x)[0][:12] for x in ROWS]
