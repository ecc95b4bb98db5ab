"""Texts as tokens of a model: whole or cut, of a tokenised table without its padding, none too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from curvlang.diagnostics.codes import Code
from curvlang.diagnostics.diagnostic import SpecError
from curvlang.diagnostics.refusal import refusal
from curvlang.models.data.fields import IGNORED, LABELS, Fields
from curvlang.models.language_models.checkpoint import Checkpoint
from curvlang.models.language_models.libraries import quiet
from curvlang.models.language_models.text_table import AT_ONCE, TextTable
from curvlang.models.sources.flat_rows import FlatRowsWriter
from curvlang.models.table_rows.columns import TextColumns

TOKENS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
"""Columns of a table that has been tokenised before."""

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
        named = labelled and LABELS[0] in table.columns
        masked = MASK in table.columns
        names = [TOKENS, *([MASK] if masked else []), *([LABELS[0]] if named else [])]
        blocks = zip(*map(table.list_blocks, names), strict=True)
        rows = (row for block in blocks for row in zip(*block, strict=True))
        for n, (ids, *others) in enumerate(rows):
            mask = others[0] if masked else [1] * len(ids)
            labels = others[-1] if named else ids
            if len({len(ids), len(mask), len(labels)}) > 1:
                raise refusal(
                    Code.E0896,
                    f"row {table.number(n)} of `{table.name}` has {len(ids)} tokens and {len(labels)} labels",
                    f"give every token a label, {IGNORED} where nothing is predicted",
                )
            kept = [k for k, counts in enumerate(mask) if counts]
            yield [ids[k] for k in kept], [labels[k] for k in kept]

    def check_lengths(
        self, table: TextTable, rows: Sequence[Sequence[int]], repair: str = ""
    ) -> None:
        """Refuse rows that are longer than the model reads.

        Raises:
            SpecError: E0898.
        """
        self.check_longest(table, torch.tensor([len(row) for row in rows]), repair)

    def check_longest(self, table: TextTable, lengths: Tensor, repair: str = "") -> None:
        """The same of the lengths of all rows."""
        most = self.model.positions
        longest = int(lengths.argmax())
        if most is not None and int(lengths[longest]) > most:
            count = int((lengths > most).sum())
            raise refusal(
                Code.E0898,
                f"row {table.number(longest)} of `{table.name}` has {int(lengths[longest])} tokens, and "
                f"`{self.model.path}` reads {most} positions",
                f"write `length = {most}`, which cuts longer rows{repair}",
                notes=(f"{count} rows are longer",) if count > 1 else (),
            )


def nothing(table: TextTable, n: int, what: str, repair: str = "drop this row") -> SpecError:
    """E0897: a row that nothing is learnt from."""
    return refusal(Code.E0897, f"row {table.number(n)} of `{table.name}` has {what}", repair)


def written(rows: Iterator[Row], *, alike: bool) -> Fields:
    """Tokens and labels of all rows.

    Args:
        rows: They, one after the other.
        alike: Whether the tokens are the labels.
    """
    with FlatRowsWriter() as tokens, FlatRowsWriter() as labels:
        while block := list(islice(rows, AT_ONCE)):
            tokens.add([ids for ids, _ in block])
            if not alike:
                labels.add([own for _, own in block])
        ids = tokens.finished()
        return Fields({TOKENS: ids, LABELS[0]: ids if alike else labels.finished()})
