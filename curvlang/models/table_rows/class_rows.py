"""Texts, or pairs of them, with their classes: rows of a checkpoint that classifies texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.data import RawExamples
from curvlang.models.data.fields import Fields
from curvlang.models.language_models.text_table import AT_ONCE, TextTable
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.sources.flat_rows import FlatRows, FlatRowsWriter
from curvlang.models.table_rows.class_labels import Problem, class_labels, label_names
from curvlang.models.table_rows.token_reader import TOKENS, TYPES, TokenReader, nothing


@dataclass(frozen=True, slots=True, eq=False)
class TokenFields:
    """The rows of a table.

    Args:
        fields: Tokens, and kinds of tokens where pairs have them.
        typed: Whether a kind is not 0.
    """

    fields: dict[str, FlatRows]
    typed: bool


class TextClassReader(TokenReader):
    """Rows for a model that classifies a text."""

    __slots__ = ()

    def examples(self, train: TextTable, query: TextTable) -> RawExamples:
        """The rows of both tables, and what a label of the model is.

        Raises:
            SpecError: E0896 for columns and labels, E0897 for rows without tokens or a model without a
                token of padding, E0898 for rows that are longer than the model reads, E0899 without a
                column of labels.
        """
        self._check_padding()
        labels = class_labels(self.model, self.columns.label, train)
        rows = [self._rows(table) for table in (train, query)]
        # Kinds that are all 0 are what a model takes by itself.
        typed = any(found.typed for found in rows)
        sides = [
            Fields(
                {
                    **{k: x for k, x in found.fields.items() if k == TOKENS or typed},
                    "labels": labels.of(table),
                }
            )
            for found, table in zip(rows, (train, query), strict=True)
        ]
        options: dict[str, Any] = {"text_of": TokenText(self.tokenizer)}
        if labels.problem is not Problem.regression:
            options["label_of"] = label_names(self.model)
        return RawExamples(sides[0], sides[1], options, labels.problem.value)

    def _rows(self, table: TextTable) -> TokenFields:
        typed = False
        with ExitStack() as stack:
            writers: dict[str, FlatRowsWriter] = {}
            for made in self._blocks(table):
                typed = typed or any(map(any, made.get(TYPES, [])))
                for name, rows in made.items():
                    if name not in writers:
                        writers[name] = stack.enter_context(FlatRowsWriter())
                    writers[name].add(rows)
            fields = {name: writer.finished() for name, writer in writers.items()}
        lengths = fields[TOKENS].lengths
        if not bool(lengths.all()):
            raise nothing(table, int((lengths == 0).nonzero()[0]), "no token")
        self.check_longest(table, lengths)
        return TokenFields(fields, typed)

    def _blocks(self, table: TextTable) -> Iterator[dict[str, list[list[int]]]]:
        """Tokens, and kinds of tokens where pairs have them, of some rows at a time."""
        length = self.columns.length
        if TOKENS in table.columns and self.columns.text not in table.columns:
            given = self.given(table, labelled=False)
            while rows := [ids[:length] for ids, _ in islice(given, AT_ONCE)]:
                yield {TOKENS: rows}
            return
        names = [self.columns.text, *([] if self.columns.pair is None else [self.columns.pair])]
        for block in zip(*map(table.text_blocks, names), strict=True):
            yield self.encoded(block, length)

    def _check_padding(self) -> None:
        """A decoder finds the last token of a row by its token of padding.

        Raises:
            SpecError: E0897.
        """
        if self.model.config.get("pad_token_id") is None:
            raise refusal(
                Code.E0897,
                f"`{self.model.path}` names no token of padding, by which it finds where a row ends",
                "set `model.config.pad_token_id` and write it again with `model.save_pretrained(DIR)`",
            )
