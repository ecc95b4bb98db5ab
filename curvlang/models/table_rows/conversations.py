"""Conversations as rows of tokens: written by the tokenizer's own template, its answers predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import IGNORED
from curvlang.models.language_models.libraries import first_line
from curvlang.models.language_models.text_table import TextTable
from curvlang.models.table_rows.token_reader import TOKENS, Row

ANSWERS = "assistant"
"""The role whose messages are predicted."""
Messages = list[dict[str, Any]]


def conversations(table: TextTable, column: str, tokenizer: Any) -> Iterator[Row]:
    """The tokens of every conversation; of its answers also as labels, with the marks that end them.

    Args:
        table: The rows.
        column: Of lists of messages, each with a `role` and a `content`.
        tokenizer: Of `transformers`, with a template for conversations.

    Raises:
        SpecError: E0894 for a tokenizer without a template or without places of its tokens, E0896 for what
            is not a conversation.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise refusal(
            Code.E0894,
            f"`{column}` of `{table.name}` has conversations, and the tokenizer has no template for them",
            "give the tokenizer that the model was trained with (`tokenizer = DIR`), or texts",
        )
    if not tokenizer.is_fast:
        raise refusal(
            Code.E0894,
            "the tokenizer does not say where its tokens stand in a text, so that answers are not found",
            "write texts with `prompt = …` and `completion = …`",
        )
    for n, given in enumerate(table.each(column)):
        yield _row(_messages(given, table, n), tokenizer, table, n)


def _messages(given: Any, table: TextTable, n: int) -> Messages:
    """Messages without what a table adds to them: a row has every key that any other has."""
    if not isinstance(given, list) or not given or not all(isinstance(x, dict) for x in given):
        raise _refused(table, n, "is not a list of messages", 'write `[{"role": …, "content": …}]`')
    return [{k: v for k, v in one.items() if v is not None} for one in given]


def _row(messages: Messages, tokenizer: Any, table: TextTable, n: int) -> Row:
    def text(some: Messages, answered: bool) -> str:
        try:
            found = tokenizer.apply_chat_template(
                some, tokenize=False, add_generation_prompt=not answered
            )
        except Exception as error:
            why = f"does not fit the tokenizer's template: {first_line(error)}"
            raise _refused(table, n, why, "drop this row") from error
        return str(found)

    whole = text(messages, True)
    spans = []
    for k, one in enumerate(messages):
        if one.get("role") == ANSWERS:
            before, after = text(messages[:k], False), text(messages[: k + 1], True)
            if not (whole.startswith(after) and after.startswith(before)):
                raise _refused(
                    table,
                    n,
                    f"is written in another way up to message {k + 1} than as a whole",
                    "cut conversations so that the last message is the only answer, or write texts with "
                    "`prompt = …` and `completion = …`",
                )
            spans.append((len(before), len(after)))
    made = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    return made[TOKENS], _labels(made[TOKENS], made["offset_mapping"], spans)


def _labels(
    tokens: Sequence[int], places: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[int]:
    """The tokens that have a letter in one of the spans."""
    return [
        token if any(start < last and first < end for first, last in spans) else IGNORED
        for token, (start, end) in zip(tokens, places, strict=True)
    ]


def _refused(table: TextTable, n: int, why: str, repair: str) -> SpecError:
    return refusal(Code.E0896, f"row {table.number(n)} of `{table.name}` {why}", repair)
