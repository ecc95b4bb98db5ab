"""Texts as rows of tokens that predict the next one: whole, cut, packed, a prompt and what completes it, or a conversation."""

from __future__ import annotations

from collections.abc import Iterator

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.data import RawExamples
from curvlang.models.data.fields import IGNORED, LABELS, Fields
from curvlang.models.language_models.text_table import TextTable
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.sources.flat_rows import FlatRows
from curvlang.models.table_rows.columns import MESSAGES
from curvlang.models.table_rows.conversations import conversations
from curvlang.models.table_rows.token_reader import TOKENS, Row, TokenReader, nothing, written


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
        packed = self.columns.pack
        rows = written(self._packed(train), alike=True) if packed else self._rows(train)
        return RawExamples(rows, self._rows(query), options, "cross_entropy")

    def _rows(self, table: TextTable) -> Fields:
        labelled = self.columns.prompt or self._conversing(table)
        labelled = labelled or (self._tokenised(table) and LABELS[0] in table.columns)
        rows = self._predicting(table, self._causal(table, self.columns.length))
        found = written(rows, alike=not labelled)
        whole = self.columns.prompt or self._conversing(table)
        also = "" if whole else ", or `pack = true` beside it, which keeps all"
        own = found.values[TOKENS]
        assert isinstance(own, FlatRows)
        self.check_longest(table, own.lengths, also)
        return found

    def _predicting(self, table: TextTable, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows, each with a token to predict."""
        for n, (ids, labels) in enumerate(rows):
            if all(x == IGNORED for x in labels[1:]):
                raise self._nothing(table, n)
            yield ids, labels

    def _causal(self, table: TextTable, length: int | None) -> Iterator[Row]:
        """Rows of at most `length` tokens: whole texts, or prompts with what completes them."""
        columns = self.columns
        if self._tokenised(table):
            given = self.given(table, labelled=True)
            yield from ((ids[:length], labels[:length]) for ids, labels in given)
            return
        if self._conversing(table):
            given = conversations(table, columns.messages, self.tokenizer)
            yield from ((ids[:length], labels[:length]) for ids, labels in given)
            return
        if columns.prompt is None:
            self._check_texts(table)
            for texts in table.text_blocks(columns.text):
                yield from ((ids, ids) for ids in self.tokens(texts, length))
            return
        assert columns.completion is not None
        blocks = map(table.text_blocks, (columns.prompt, columns.completion))
        for prompts, completions in zip(*blocks, strict=True):
            told = self.tokens(completions, special=False)
            for asked, own in zip(self.tokens(prompts), told, strict=True):
                yield (asked + own)[:length], ([IGNORED] * len(asked) + own)[:length]

    def _conversing(self, table: TextTable) -> bool:
        """Whether a table has conversations in place of texts."""
        columns = self.columns
        if columns.messages != MESSAGES:
            return True
        own = {columns.text, columns.prompt, TOKENS} & {*table.columns}
        return columns.messages in table.columns and not own

    def _check_texts(self, table: TextTable) -> None:
        """Refuse prompts and completions that are not named, with their names."""
        pair = ("prompt", "completion")
        if self.columns.text not in table.columns and {*pair} <= {*table.columns}:
            raise refusal(
                Code.E0896,
                f"`{table.name}` has no column `{self.columns.text}`",
                'write `prompt = "prompt", completion = "completion"`: the second is predicted',
                notes=(f"it has {', '.join(f'`{x}`' for x in table.columns)}",),
            )

    def _tokenised(self, table: TextTable) -> bool:
        """Whether a table has tokens in place of texts."""
        own = {self.columns.text, self.columns.prompt} & {*table.columns}
        return TOKENS in table.columns and not own

    def _packed(self, table: TextTable) -> Iterator[Row]:
        """All texts behind each other, an end between two where the tokenizer has one, cut into rows."""
        width = self.columns.length or self.model.positions
        if width is None:
            raise refusal(
                Code.E0898,
                f"`pack` needs a length, and `{self.model.architecture}` reads rows of any",
                "write `length = 512`",
            )
        if self._conversing(table):
            raise refusal(
                Code.E0896,
                f"`pack` joins rows, and `{table.name}` has conversations, of which answers are predicted",
                "leave `pack` out",
            )
        end = self.tokenizer.eos_token_id
        waiting: list[int] = []
        for ids, _ in self._causal(table, None):
            waiting += (*ids, *([] if end is None else [end]))
            whole = len(waiting) // width * width
            yield from ((row, row) for row in _cut(waiting[:whole], width) if width > 1)
            del waiting[:whole]
        if len(waiting) > 1:
            yield waiting, waiting

    def _nothing(self, table: TextTable, n: int) -> SpecError:
        """A row that no token is predicted in."""
        what = "no token to predict"
        if self._conversing(table):
            what = "no answer: no message of the role `assistant`, or none within `length`"
            return nothing(table, n, what)
        if self.columns.prompt and self.columns.length:
            cut = f"{what}; `length` cuts off its completion"
            return nothing(table, n, cut, "write a larger `length`, or drop this row")
        return nothing(table, n, what)


def _cut(tokens: list[int], width: int) -> Iterator[list[int]]:
    return (tokens[k : k + width] for k in range(0, len(tokens), width))
