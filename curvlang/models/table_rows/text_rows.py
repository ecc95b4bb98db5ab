"""Texts as rows of tokens that predict the next one: whole, cut, packed, or a prompt and what completes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.data import RawExamples
from curvlang.models.data.fields import IGNORED, Fields
from curvlang.models.language_models.text_table import TextTable
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.table_rows.token_reader import TOKENS, Row, TokenReader, nothing, ragged


class NextTokenReader(TokenReader):
    """Rows for a model that predicts the next token."""

    __slots__ = ()

    def examples(self, train: TextTable, query: TextTable) -> RawExamples:
        """The rows of both tables; queries are not packed.

        Raises:
            SpecError: E0896 for columns, E0897 for rows without anything to predict, E0898 for rows that are
                longer than the model reads.
        """
        options = {"shift_labels": True, "text_of": TokenText(self.tokenizer)}
        rows = self._packed(train) if self.columns.pack else self._rows(train)
        return RawExamples(_fields(rows), _fields(self._rows(query)), options, "cross_entropy")

    def _rows(self, table: TextTable) -> list[Row]:
        rows = list(self._causal(table, self.columns.length))
        for n, (_, labels) in enumerate(rows):
            if all(x == IGNORED for x in labels[1:]):
                raise self._nothing(table, n)
        also = "" if self.columns.prompt else ", or `pack = true` beside it, which keeps all"
        self.check_lengths(table, [ids for ids, _ in rows], also)
        return rows

    def _causal(self, table: TextTable, length: int | None) -> Iterator[Row]:
        """Rows of at most `length` tokens: whole texts, or prompts with what completes them."""
        columns = self.columns
        if self._tokenised(table):
            given = self.given(table, labelled=True)
            yield from ((ids[:length], labels[:length]) for ids, labels in given)
            return
        if columns.prompt is None:
            yield from ((ids, ids) for ids in self.tokens(table.texts(columns.text), length))
            return
        assert columns.completion is not None
        prompts = self.tokens(table.texts(columns.prompt))
        completions = self.tokens(table.texts(columns.completion), special=False)
        for asked, told in zip(prompts, completions, strict=True):
            yield (asked + told)[:length], ([IGNORED] * len(asked) + told)[:length]

    def _tokenised(self, table: TextTable) -> bool:
        """Whether a table has tokens in place of texts."""
        own = {self.columns.text, self.columns.prompt} & {*table.columns}
        return TOKENS in table.columns and not own

    def _packed(self, table: TextTable) -> list[Row]:
        """All texts behind each other, an end between two where the tokenizer has one, cut into rows."""
        texts = [ids for ids, _ in self._causal(table, None)]
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

    def _nothing(self, table: TextTable, n: int) -> SpecError:
        """A row that no token is predicted in."""
        what = "no token to predict"
        if self.columns.prompt and self.columns.length:
            cut = f"{what}; `length` cuts off its completion"
            return nothing(table, n, cut, "write a larger `length`, or drop this row")
        return nothing(table, n, what)


def _fields(rows: Sequence[Row]) -> Fields:
    ids, labels = (ragged([row[k] for row in rows]) for k in (0, 1))
    return Fields({"input_ids": ids, "labels": labels})
