"""Lists of words with a class for each: rows of a checkpoint that classifies words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.data import RawExamples
from curvlang.models.data.fields import IGNORED, LABELS, Fields
from curvlang.models.execution.calls import exhausted
from curvlang.models.language_models.heads import class_names
from curvlang.models.language_models.libraries import first_line, quiet
from curvlang.models.language_models.text_table import TextTable
from curvlang.models.language_models.tokenizer import TokenText
from curvlang.models.sources.flat_rows import FlatRows
from curvlang.models.table_rows.class_labels import column_of, label_names, not_a_class
from curvlang.models.table_rows.token_reader import TOKENS, Row, TokenReader, nothing, written

WORDS = ("tokens", "words")
"""Columns of words where none is named."""
TAGS = ("tags", "ner_tags", *LABELS)
"""Columns of their classes where none is named."""


class WordClassReader(TokenReader):
    """Rows for a model that classifies every word: the first token of a word has its class, the others none."""

    __slots__ = ()

    def examples(self, train: TextTable, query: TextTable) -> RawExamples:
        """The rows of both tables.

        Raises:
            SpecError: E0894 for a tokenizer that does not say which token is of which word, E0896 for
                columns and classes, E0897 for rows without classes, E0898 for rows that are longer than
                the model reads, E0899 without such columns.
        """
        options = {
            "shift_labels": False,
            "text_of": TokenText(self.tokenizer),
            "label_of": label_names(self.model),
        }
        return RawExamples(self._fields(train), self._fields(query), options, "cross_entropy")

    def _fields(self, table: TextTable) -> Fields:
        named = self.columns.tokens or next((x for x in WORDS if x in table.columns), None)
        given = named is None and TOKENS in table.columns
        rows = self._tokenised(table) if given else self._tagged(table)
        found = written(self._classed(table, rows), alike=False)
        own = found.values[TOKENS]
        assert isinstance(own, FlatRows)
        self.check_longest(table, own.lengths)
        return found

    def _classed(self, table: TextTable, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, each with a word that has a class."""
        for n, (ids, labels) in enumerate(rows):
            if all(x == IGNORED for x in labels):
                raise nothing(table, n, "no word with a class")
            yield ids, labels

    def _tokenised(self, table: TextTable) -> Iterator[Row]:
        """Tokens with their labels, as the table has them."""
        column_of(self.model, self.columns.tags, LABELS, "tags", table)
        length, count = self.columns.length, len(class_names(self.model.config))
        for n, (ids, y) in enumerate(self.given(table, labelled=True)):
            for x in y[:length]:
                if x != IGNORED and not 0 <= x < count:
                    raise not_a_class(self.model, x, LABELS[0], table, n)
            yield ids[:length], y[:length]

    def _tagged(self, table: TextTable) -> Iterator[Row]:
        """Words in tokens, each with the class of the word that it begins."""
        named = column_of(self.model, self.columns.tokens, WORDS, "tokens", table)
        tags = column_of(self.model, self.columns.tags, TAGS, "tags", table)
        words = chain.from_iterable(table.list_blocks(named, str))
        classes = table.each_class(tags, class_names(self.model.config))
        for n, (own, given) in enumerate(zip(words, classes, strict=True)):
            if not isinstance(given, list) or len(given) != len(own):
                count = len(given) if isinstance(given, list) else 1
                raise refusal(
                    Code.E0896,
                    f"row {table.number(n)} of `{table.name}` has {len(own)} words in `{named}` and {count} "
                    f"classes in `{tags}`",
                    f"give every word a class, {IGNORED} where nothing is predicted",
                )
            yield self._row(own, [self._class(x, tags, table, n) for x in given])

    def _row(self, words: list[str], classes: list[int]) -> Row:
        made = self._words(words)
        before: int | None = None
        labels = []
        for word in made.word_ids():
            labels.append(IGNORED if word is None or word == before else classes[word])
            before = word
        return made[TOKENS], labels

    def _words(self, words: list[str]) -> Any:
        """What the tokenizer makes of a list of words.

        Raises:
            SpecError: E0894.
        """
        why = "it is one in Python, which does not say which token is of which word"
        try:
            with quiet():
                made = self.made(words, length=self.columns.length, is_split_into_words=True)
            if self.tokenizer.is_fast:
                return made
        except Exception as error:
            if exhausted(error):
                raise
            why = first_line(error)
        raise refusal(
            Code.E0894,
            f"the tokenizer of `{self.model.path}` does not take lists of words: {why}",
            "save a fast one, `AutoTokenizer.from_pretrained(DIR, add_prefix_space=True)`, or give a table of "
            "`input_ids` and `labels`",
        )

    def _class(self, x: Any, column: str, table: TextTable, n: int) -> int:
        names = class_names(self.model.config)
        if isinstance(x, str) and x in names:
            return names.index(x)
        if isinstance(x, int) and not isinstance(x, bool) and (x == IGNORED or 0 <= x < len(names)):
            return x
        raise not_a_class(self.model, x, column, table, n)
