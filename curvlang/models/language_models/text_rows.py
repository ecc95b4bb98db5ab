"""Texts as rows of tokens with their labels: whole, cut, packed, or a prompt and what completes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import IGNORED, LABELS, Fields
from curvlang.models.language_models.checkpoint import CLASSIFIER, Checkpoint
from curvlang.models.language_models.libraries import quiet
from curvlang.models.language_models.text_table import TextTable
from curvlang.models.padding.ragged_rows import RaggedColumn

TEXT = "text"
"""The column of texts where none is named."""
TOKENS, MASK = "input_ids", "attention_mask"
"""Columns of a table that has been tokenised before."""
AT_ONCE = 1000
"""Texts that are given to a tokenizer together."""

Row = tuple[list[int], list[int]]
"""Tokens of an example, and their labels."""


@dataclass(frozen=True, slots=True)
class TextColumns:
    """What is read of a table.

    Args:
        text: The column of whole texts.
        prompt: The column of prompts, whose tokens are read and not predicted; None for none.
        completion: The column of what follows a prompt.
        label: The column of classes, for a classifier; None for none.
        length: Most tokens of a row: longer ones are cut; None for none, where longer ones than the model
            reads are refused.
        pack: Whether texts are joined, one behind the other, and cut into rows of `length`.
    """

    text: str = TEXT
    prompt: str | None = None
    completion: str | None = None
    label: str | None = None
    length: int | None = None
    pack: bool = False

    def __post_init__(self) -> None:
        """Refuse columns that exclude each other.

        Raises:
            SpecError: E0896.
        """
        if (self.prompt is None) != (self.completion is None):
            one, other = (
                ("prompt", "completion") if self.completion is None else ("completion", "prompt")
            )
            raise refusal(Code.E0896, f"`{one}` is given without `{other}`", "name both columns")
        if self.prompt is not None and self.text != TEXT:
            raise refusal(
                Code.E0896, "`text` and `prompt` both say what a row is", "name the columns of one"
            )
        if self.pack and (self.prompt is not None or self.label is not None):
            raise refusal(
                Code.E0896,
                f"`pack` joins rows, and `{'label' if self.prompt is None else 'prompt'}` is about one",
                "leave `pack` out",
            )


@dataclass(frozen=True, slots=True, eq=False)
class TextReader:
    """Makes rows of tokens from tables of texts.

    Args:
        model: What reads them.
        tokenizer: Of `transformers`.
        columns: What is read of a table.
    """

    model: Checkpoint
    tokenizer: Any
    columns: TextColumns

    def __post_init__(self) -> None:
        """Refuse a length that the model does not read, and labels that it does not predict.

        Raises:
            SpecError: E0898 for the length, E0899 for a model of another kind than the data.
        """
        most, length = self.model.positions, self.columns.length
        if most is not None and length is not None and length > most:
            raise refusal(
                Code.E0898,
                f"`length = {length}`, and `{self.model.path}` reads {most} positions",
                f"write `length = {most}`, or less",
            )
        if not self._classifies and self.columns.label is not None:
            raise refusal(
                Code.E0899,
                f"`label` names classes, and `{self.model.architecture}` predicts tokens",
                "leave `label` out, or give a model for sequence classification",
            )

    @property
    def _classifies(self) -> bool:
        return self.model.reader == CLASSIFIER

    @property
    def options(self) -> dict[str, Any]:
        """How a task reads the labels."""
        return {} if self._classifies else {"shift_labels": True}

    def read(self, table: TextTable, *, pack: bool) -> Fields:
        """The rows of a table.

        Args:
            table: Of texts.
            pack: Whether they may be packed: queries stay apart.

        Raises:
            SpecError: E0896 for columns, E0897 for rows without anything to predict, E0898 for rows that are
                longer than the model reads.
        """
        if self._classifies:
            return self._classified(table)
        packed = pack and self.columns.pack
        rows = list(self._causal(table, None if packed else self.columns.length))
        if packed:
            return _fields(self._packed([ids for ids, _ in rows]))
        for n, (_, labels) in enumerate(rows):
            if all(x == IGNORED for x in labels[1:]):
                raise self._nothing(table, n)
        self._check_lengths(table, [ids for ids, _ in rows])
        return _fields(rows)

    def _causal(self, table: TextTable, length: int | None) -> Iterator[Row]:
        """Rows of at most `length` tokens: whole texts, or prompts with what completes them."""
        columns = self.columns
        if self._tokenised(table):
            yield from ((ids[:length], labels[:length]) for ids, labels in self._given(table))
            return
        if columns.prompt is None:
            yield from ((ids, ids) for ids in self._tokens(table.texts(columns.text), length))
            return
        assert columns.completion is not None
        prompts = self._tokens(table.texts(columns.prompt))
        completions = self._tokens(table.texts(columns.completion), special=False)
        for asked, told in zip(prompts, completions, strict=True):
            yield (asked + told)[:length], ([IGNORED] * len(asked) + told)[:length]

    def _tokenised(self, table: TextTable) -> bool:
        """Whether a table has tokens in place of texts."""
        own = {self.columns.text, self.columns.prompt} & {*table.columns}
        return TOKENS in table.columns and not own

    def _given(self, table: TextTable) -> Iterator[Row]:
        """Tokens and labels of a tokenised table, without its padding."""
        tokens = table.lists(TOKENS)
        masks = table.lists(MASK) if MASK in table.columns else [[1] * len(x) for x in tokens]
        named = not self._classifies and LABELS[0] in table.columns
        labels = table.lists(LABELS[0]) if named else tokens
        for n, row in enumerate(zip(tokens, masks, labels, strict=True)):
            if len({*map(len, row)}) > 1:
                raise refusal(
                    Code.E0896,
                    f"row {table.number(n)} of `{table.name}` has {len(row[0])} tokens and {len(row[2])} labels",
                    f"give every token a label, {IGNORED} where nothing is predicted",
                )
            kept = [(token, label) for token, mask, label in zip(*row, strict=True) if mask]
            yield [token for token, _ in kept], [label for _, label in kept]

    def _tokens(
        self, texts: Sequence[str], length: int | None = None, *, special: bool = True
    ) -> list[list[int]]:
        """The tokens of every text, at most `length` of them, as the tokenizer gives them."""
        found: list[list[int]] = []
        with quiet():
            for k in range(0, len(texts), AT_ONCE):
                made = self.tokenizer(
                    list(texts[k : k + AT_ONCE]),
                    add_special_tokens=special,
                    truncation=length is not None,
                    max_length=length,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                )
                found += made["input_ids"]
        return found

    def _packed(self, texts: Sequence[list[int]]) -> list[Row]:
        """All texts behind each other, an end between two where the tokenizer has one, cut into rows."""
        end = self.tokenizer.eos_token_id
        joined = [token for ids in texts for token in (*ids, *([] if end is None else [end]))]
        width = self.columns.length or self.model.positions
        if width is None:
            raise refusal(
                Code.E0898,
                f"`pack` needs a length, and `{self.model.architecture}` reads rows of any",
                "write `length = 512`",
            )
        rows = [joined[k : k + width] for k in range(0, len(joined), width)]
        return [(ids, ids) for ids in rows if len(ids) > 1]

    def _label(self, table: TextTable) -> str:
        """The column of classes: the one that is named, else `labels` or `label`."""
        usual = [x for x in LABELS if x in table.columns]
        label = self.columns.label or next(iter(usual), None)
        if label is None:
            known = ", ".join(f"`{x}`" for x in table.columns)
            raise refusal(
                Code.E0899,
                f"`{self.model.architecture}` predicts classes, and no column of `{table.name}` is named for them",
                f"name it, `label = …`: the columns are {known}",
            )
        return label

    def _classified(self, table: TextTable) -> Fields:
        label = self._label(table)
        self._check_padding()
        length = self.columns.length
        rows = (
            [ids[:length] for ids, _ in self._given(table)]
            if self._tokenised(table)
            else self._tokens(table.texts(self.columns.text), length)
        )
        for n, ids in enumerate(rows):
            if not ids:
                raise self._nothing(table, n)
        self._check_lengths(table, rows)
        return Fields({"input_ids": _ragged(rows), "labels": self._classes(table, label)})

    def _check_padding(self) -> None:
        """A decoder finds the last token of a row by its token of padding."""
        if (
            self.model.config.get("pad_token_id") is None
            and "ForSequence" in self.model.architecture
        ):
            raise refusal(
                Code.E0897,
                f"`{self.model.path}` names no token of padding, by which it finds where a row ends",
                "set `model.config.pad_token_id` and write it again with `model.save_pretrained(DIR)`",
            )

    def _classes(self, table: TextTable, label: str) -> Tensor:
        """Numbers of classes; texts are those that the model's configuration names."""
        names = {str(name): int(k) for k, name in (self.model.config.get("id2label") or {}).items()}
        found = []
        for n, x in enumerate(table.column(label)):
            if isinstance(x, str) and x in names:
                found.append(names[x])
            elif isinstance(x, int) and not isinstance(x, bool):
                found.append(x)
            else:
                known = ", ".join(f"`{name}`" for name in names) or "0, 1, 2, …"
                raise refusal(
                    Code.E0896,
                    f"column `{label}` of `{table.name}` has `{x}` at row {table.number(n)}, which is not "
                    f"a class of `{self.model.path}`",
                    f"give numbers of classes, or the model's names: {known}",
                )
        return torch.tensor(found, dtype=torch.int64)

    def _check_lengths(self, table: TextTable, rows: Sequence[list[int]]) -> None:
        most = self.model.positions
        longest = max(range(len(rows)), key=lambda n: len(rows[n]))
        if most is not None and len(rows[longest]) > most:
            count = sum(len(row) > most for row in rows)
            raise refusal(
                Code.E0898,
                f"row {table.number(longest)} of `{table.name}` has {len(rows[longest])} tokens, and "
                f"`{self.model.path}` reads {most} positions",
                f"write `length = {most}`, which cuts longer rows"
                + ("" if self.columns.prompt else ", or `pack = true` beside it, which keeps all"),
                notes=(f"{count} rows are longer",) if count > 1 else (),
            )

    def _nothing(self, table: TextTable, n: int) -> SpecError:
        """A row that no token is predicted in."""
        cut = (
            "; `length` cuts off its completion"
            if self.columns.prompt and self.columns.length
            else ""
        )
        return refusal(
            Code.E0897,
            f"row {table.number(n)} of `{table.name}` has no token to predict{cut}",
            "write a larger `length`, or drop this row" if cut else "drop this row",
        )


def _fields(rows: Sequence[Row]) -> Fields:
    ids, labels = (_ragged([row[k] for row in rows]) for k in (0, 1))
    return Fields({"input_ids": ids, "labels": labels})


def _ragged(rows: Sequence[Sequence[int]]) -> RaggedColumn:
    return RaggedColumn(tuple(torch.tensor(row, dtype=torch.int64) for row in rows))
