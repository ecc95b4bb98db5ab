"""Texts as tokens of a model: whole or cut, of a tokenised table without its padding, none too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import IGNORED, LABELS
from curvlang.models.language_models.checkpoint import Checkpoint
from curvlang.models.language_models.libraries import quiet
from curvlang.models.language_models.text_table import TextTable
from curvlang.models.padding.ragged_rows import RaggedColumn
from curvlang.models.table_rows.columns import TextColumns

TOKENS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
"""Columns of a table that has been tokenised before."""
AT_ONCE = 1000
"""Texts that are given to a tokenizer together."""

Row = tuple[list[int], list[int]]
"""Tokens of an example, and their labels."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenReader:
    """Makes rows of tokens from columns of texts.

    Args:
        model: What reads them.
        tokenizer: Of `transformers`.
        columns: What is read of a table.
    """

    model: Checkpoint
    tokenizer: Any
    columns: TextColumns

    def tokens(
        self, texts: Sequence[str], length: int | None = None, *, special: bool = True
    ) -> list[list[int]]:
        """The tokens of every text, at most `length` of them, as the tokenizer gives them."""
        return self.encoded((texts,), length, add_special_tokens=special)[TOKENS]

    def encoded(
        self, columns: Sequence[Sequence[Any]], length: int | None, **options: Any
    ) -> dict[str, list[list[int]]]:
        """What the tokenizer makes of columns of one length, a part of their rows at a time."""
        found: dict[str, list[list[int]]] = {}
        with quiet():
            for k in range(0, len(columns[0]), AT_ONCE):
                made = self.made(
                    *(list(x[k : k + AT_ONCE]) for x in columns), length=length, **options
                )
                for name in (TOKENS, TYPES):
                    if name in made:
                        found.setdefault(name, []).extend(made[name])
        return found

    def made(self, *given: Any, length: int | None, **options: Any) -> Any:
        """One call of the tokenizer, for rows of at most `length` tokens."""
        return self.tokenizer(
            *given,
            truncation=length is not None,
            max_length=length,
            return_attention_mask=False,
            **options,
        )

    def given(self, table: TextTable, *, labelled: bool) -> Iterator[Row]:
        """Tokens of a tokenised table without its padding, and a label for each; the tokens where it has none."""
        tokens = table.lists(TOKENS)
        masks = table.lists(MASK) if MASK in table.columns else [[1] * len(x) for x in tokens]
        named = labelled and LABELS[0] in table.columns
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

    def check_lengths(
        self, table: TextTable, rows: Sequence[Sequence[int]], repair: str = ""
    ) -> None:
        """Refuse rows that are longer than the model reads.

        Raises:
            SpecError: E0898.
        """
        most = self.model.positions
        longest = max(range(len(rows)), key=lambda n: len(rows[n]))
        if most is not None and len(rows[longest]) > most:
            count = sum(len(row) > most for row in rows)
            raise refusal(
                Code.E0898,
                f"row {table.number(longest)} of `{table.name}` has {len(rows[longest])} tokens, and "
                f"`{self.model.path}` reads {most} positions",
                f"write `length = {most}`, which cuts longer rows{repair}",
                notes=(f"{count} rows are longer",) if count > 1 else (),
            )


def nothing(table: TextTable, n: int, what: str, repair: str = "drop this row") -> SpecError:
    """E0897: a row that nothing is learnt from."""
    return refusal(Code.E0897, f"row {table.number(n)} of `{table.name}` has {what}", repair)


def ragged(rows: Sequence[Sequence[int]]) -> RaggedColumn:
    """Rows of numbers, each of its own length."""
    return RaggedColumn(tuple(torch.tensor(row, dtype=torch.int64) for row in rows))
